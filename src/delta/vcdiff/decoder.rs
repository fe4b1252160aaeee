//! Decodes windows to their target. All declared sizes are checked.

use super::addresses::{Addresses, is_byte};
use super::codes::{self, Instruction};
use super::{HEADER, VCD_SOURCE};

/// The reason why a delta cannot be applied. All counts are bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VcdiffError {
    #[error("not the header of a delta without compression, code table and application data")]
    BadHeader,
    #[error("{field} is {value:#04x}, which clients do not read")]
    Unsupported { field: &'static str, value: u8 },
    #[error("no integer of at most 31 bits with {left} bytes left")]
    BadInteger { left: usize },
    #[error("{needed} bytes are wanted with {left} left")]
    Truncated { needed: usize, left: usize },
    #[error("{left} bytes of a section or window are left over")]
    LeftOver { left: usize },
    #[error("source of {len} bytes at {offset} runs past the base of {base_len} bytes")]
    SourcePastBase { offset: usize, len: usize, base_len: usize },
    #[error("declared target of {declared} bytes is above the bound of {bound}")]
    TargetTooLarge { declared: usize, bound: usize },
    #[error("target of a window reaches {found} bytes, declared are {declared}")]
    SizeMismatch { declared: usize, found: usize },
    #[error("copy to {here} is not from before it")]
    BadAddress { here: usize },
    #[error("copy of {size} bytes at {address} runs past the source of {source_len} bytes")]
    CopyPastSource { address: usize, size: usize, source_len: usize },
}

/// Applies `delta` (protocol.md 3.15) to `base` and returns the target.
///
/// Never panics, and never returns a target of more than `target_bytes_max` bytes, whatever the
/// delta declares.
///
/// # Errors
///
/// Any [`VcdiffError`]. A wrong base is not detected: a delta has no checksum.
pub fn decode(base: &[u8], delta: &[u8], target_bytes_max: usize) -> Result<Vec<u8>, VcdiffError> {
    let mut rest = delta.strip_prefix(&HEADER).ok_or(VcdiffError::BadHeader)?;
    let mut target = Vec::new();
    // A delta without a window is an error, as in clients.
    loop {
        let window = Window::take(&mut rest, base)?;
        let declared = target.len() + window.target_len;
        if declared > target_bytes_max {
            return Err(VcdiffError::TargetTooLarge { declared, bound: target_bytes_max });
        }
        window.apply(&mut target)?;
        if rest.is_empty() {
            return Ok(target);
        }
    }
}

/// One window, split into its parts.
struct Window<'a> {
    source: &'a [u8],
    target_len: usize,
    data: &'a [u8],
    instructions: &'a [u8],
    addresses: &'a [u8],
}

impl<'a> Window<'a> {
    fn take(rest: &mut &'a [u8], base: &'a [u8]) -> Result<Self, VcdiffError> {
        let source = match take_byte(rest)? {
            0 => &base[..0],
            VCD_SOURCE => {
                let (len, offset) = (take_int(rest)?, take_int(rest)?);
                let source = base.get(offset..).and_then(|from| from.get(..len));
                source.ok_or(VcdiffError::SourcePastBase { offset, len, base_len: base.len() })?
            }
            value => return Err(VcdiffError::Unsupported { field: "Win_Indicator", value }),
        };
        let window_len = take_int(rest)?;
        let mut window = take(rest, window_len)?;
        let target_len = take_int(&mut window)?;
        match take_byte(&mut window)? {
            0 => {}
            value => return Err(VcdiffError::Unsupported { field: "Delta_Indicator", value }),
        }
        let [data, instructions, addresses] =
            [take_int(&mut window)?, take_int(&mut window)?, take_int(&mut window)?];
        let (data, instructions) = (take(&mut window, data)?, take(&mut window, instructions)?);
        let addresses = take(&mut window, addresses)?;
        is_used_up(window)?;
        Ok(Self { source, target_len, data, instructions, addresses })
    }

    /// Appends the target of this window to that of the previous windows.
    fn apply(mut self, target: &mut Vec<u8>) -> Result<(), VcdiffError> {
        let (start, declared) = (target.len(), self.target_len);
        let mut cache = Addresses::new();
        target.reserve(declared);
        while let Some(code) = self.instructions.split_off_first() {
            let (first, second) = codes::instructions(*code);
            for instruction in [Some(first), second].into_iter().flatten() {
                let size = match instruction {
                    Instruction::Add { size: size @ 1.. } | Instruction::Copy { size: size @ 1.., .. } => {
                        size
                    }
                    _ => take_int(&mut self.instructions)?,
                };
                // Checked before the bytes are appended, so that the target never exceeds its
                // declared size.
                let found = target.len() - start + size;
                if found > declared {
                    return Err(VcdiffError::SizeMismatch { declared, found });
                }
                match instruction {
                    Instruction::Add { .. } => target.extend_from_slice(take(&mut self.data, size)?),
                    Instruction::Run => target.resize(start + found, take_byte(&mut self.data)?),
                    Instruction::Copy { mode, .. } => self.copy(size, mode, &mut cache, target, start)?,
                }
            }
        }
        is_used_up(self.data)?;
        is_used_up(self.addresses)?;
        match target.len() - start {
            found if found == declared => Ok(()),
            found => Err(VcdiffError::SizeMismatch { declared, found }),
        }
    }

    /// Copies from the source, or from the target of this window, which begins at `start`. A copy
    /// that spans both is an error: RFC 3284 allows it, clients reject it.
    fn copy(
        &mut self,
        size: usize,
        mode: usize,
        cache: &mut Addresses,
        target: &mut Vec<u8>,
        start: usize,
    ) -> Result<(), VcdiffError> {
        let source_len = self.source.len();
        let here = source_len + target.len() - start;
        let number = match is_byte(mode) {
            true => take_byte(&mut self.addresses)?.into(),
            false => take_int(&mut self.addresses)?,
        };
        let address = cache.resolve(mode, number, here).ok_or(VcdiffError::BadAddress { here })?;
        if let Some(from) = address.checked_sub(source_len) {
            repeat(target, start + from, size);
            return Ok(());
        }
        let copied = self.source[address..].get(..size);
        target.extend_from_slice(copied.ok_or(VcdiffError::CopyPastSource { address, size, source_len })?);
        Ok(())
    }
}

/// Appends `size` bytes from offset `from`. The range may overlap the bytes that it appends.
fn repeat(target: &mut Vec<u8>, from: usize, size: usize) {
    let end = target.len() + size;
    while target.len() < end {
        let len = (target.len() - from).min(end - target.len());
        target.extend_from_within(from..from + len);
    }
}

fn take<'a>(rest: &mut &'a [u8], needed: usize) -> Result<&'a [u8], VcdiffError> {
    let left = rest.len();
    rest.split_off(..needed).ok_or(VcdiffError::Truncated { needed, left })
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, VcdiffError> {
    take(rest, 1).map(|bytes| bytes[0])
}

/// Takes an integer of at most 31 bits: decoders in JavaScript use signed arithmetic.
fn take_int(rest: &mut &[u8]) -> Result<usize, VcdiffError> {
    let left = rest.len();
    let mut value = 0u32;
    loop {
        let byte = take_byte(rest)?;
        if value >= 1 << 24 {
            return Err(VcdiffError::BadInteger { left });
        }
        value = value << 7 | u32::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(value as usize);
        }
    }
}

fn is_used_up(rest: &[u8]) -> Result<(), VcdiffError> {
    if rest.is_empty() { Ok(()) } else { Err(VcdiffError::LeftOver { left: rest.len() }) }
}

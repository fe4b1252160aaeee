//! Encoding of the addresses of copies: absolute, or relative to earlier ones (RFC 3284, 5.3).

use super::int_len;

/// Modes in which an address is an integer above one of the last few addresses.
pub(super) const NEAR: usize = 4;
/// Modes in which an address is one byte of the hash of an earlier, equal address.
const SAME: usize = 3;
/// All modes. The other two are the offset from the start of the base, and the distance back from
/// the copy's own target address.
pub(super) const MODES: usize = 2 + NEAR + SAME;

/// The addresses of earlier copies of a window. All of them are below 2^32.
pub(super) struct Addresses {
    near: [u32; NEAR],
    next: usize,
    same: [u32; SAME * 256],
}

impl Addresses {
    pub(super) fn new() -> Self {
        Self { near: [0; NEAR], next: 0, same: [0; SAME * 256] }
    }

    /// The shortest encoding of `address` for a copy to `here`: the mode and the number to write.
    pub(super) fn shortest(&mut self, address: usize, here: usize) -> (usize, usize) {
        let near = self.near.iter().enumerate();
        let near = near.filter_map(|(slot, near)| Some((address.checked_sub(*near as usize)?, 2 + slot)));
        let (mut number, mut mode) = near.fold((address, 0).min((here - address, 1)), Ord::min);
        let slot = address % self.same.len();
        if int_len(number) > 1 && self.same[slot] as usize == address {
            (mode, number) = (2 + NEAR + slot / 256, slot % 256);
        }
        self.update(address);
        (mode, number)
    }

    /// The address of a copy to `here`, from a number in `mode`. `None` if it is not before `here`.
    pub(super) fn resolve(&mut self, mode: usize, number: usize, here: usize) -> Option<usize> {
        let address = match mode {
            0 => number,
            1 => here.checked_sub(number)?,
            _ if !is_byte(mode) => (self.near[mode - 2] as usize).checked_add(number)?,
            _ => self.same[(mode - 2 - NEAR) * 256 + number] as usize,
        };
        let address = Some(address).filter(|address| *address < here)?;
        self.update(address);
        Some(address)
    }

    fn update(&mut self, address: usize) {
        self.near[self.next] = address as u32;
        self.next = (self.next + 1) % NEAR;
        self.same[address % self.same.len()] = address as u32;
    }
}

/// Whether numbers of this mode are always one byte. Those of other modes are integers of variable
/// length.
pub(super) fn is_byte(mode: usize) -> bool {
    mode >= 2 + NEAR
}

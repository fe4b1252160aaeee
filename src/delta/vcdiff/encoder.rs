//! Encodes copies and inserts to the sections of one window.

use super::addresses::{Addresses, is_byte};
use super::codes::{self, Instruction};
use super::{HEADER, VCD_SOURCE, int_len, put_int};
use crate::delta::matches::{self, Format, Match};

/// Encodes `target` as a delta against `base`, of one window (protocol.md 3.15).
///
/// Always succeeds, in time linear in both lengths. The delta may be longer than `target`: the
/// caller compares. Base and target together must stay under 2 GiB, the most a client can read.
pub fn encode(base: &[u8], target: &[u8]) -> Vec<u8> {
    let mut window = Window {
        data: Vec::with_capacity(target.len() / 4 + 16),
        instructions: Vec::with_capacity(64),
        addresses: Vec::with_capacity(32),
        last: None,
        cache: Addresses::new(),
        base_len: base.len(),
    };
    matches::write(base, target, &mut window);
    window.finish(target.len())
}

/// The sections written so far.
struct Window {
    data: Vec<u8>,
    instructions: Vec<u8>,
    addresses: Vec<u8>,
    /// The instruction whose code is the last byte of `instructions`. The next one may share that
    /// code.
    last: Option<Instruction>,
    cache: Addresses,
    base_len: usize,
}

impl Format for Window {
    fn pays(copy: Match, splits: bool) -> bool {
        let (_, has_size) = codes::single(Instruction::Copy { size: copy.len, mode: 0 });
        let size = if has_size { 0 } else { int_len(copy.len) };
        copy.len > 1 + size + int_len(copy.base) + usize::from(splits)
    }

    fn insert(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((from, to)) = long_run(rest) {
            self.add(&rest[..from]);
            self.put(Instruction::Run, to - from);
            self.data.push(rest[from]);
            rest = &rest[to..];
        }
        self.add(rest);
    }

    fn copy(&mut self, copy: Match) {
        let (mode, number) = self.cache.shortest(copy.base, self.base_len + copy.target);
        self.put(Instruction::Copy { size: copy.len, mode }, copy.len);
        match is_byte(mode) {
            true => self.addresses.push(number as u8),
            false => put_int(&mut self.addresses, number),
        }
    }
}

impl Window {
    fn add(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.put(Instruction::Add { size: bytes.len() }, bytes.len());
            self.data.extend_from_slice(bytes);
        }
    }

    /// Writes an instruction, in one code with the last one if the table has a code for both.
    fn put(&mut self, instruction: Instruction, size: usize) {
        if let Some(code) = self.last.take().and_then(|last| codes::double(last, instruction)) {
            self.instructions.pop();
            self.instructions.push(code);
            return;
        }
        let (code, has_size) = codes::single(instruction);
        self.instructions.push(code);
        match has_size {
            true => self.last = Some(instruction),
            false => put_int(&mut self.instructions, size),
        }
    }

    fn finish(self, target_len: usize) -> Vec<u8> {
        let sections = [&self.data, &self.instructions, &self.addresses];
        let lens = sections.map(Vec::len);
        let window_len = int_len(target_len) + 1 + lens.iter().map(|len| int_len(*len) + len).sum::<usize>();

        let mut out = Vec::with_capacity(HEADER.len() + 16 + window_len);
        out.extend_from_slice(&HEADER);
        // A window without copies needs no base.
        if self.addresses.is_empty() {
            out.push(0);
        } else {
            out.push(VCD_SOURCE);
            put_int(&mut out, self.base_len);
            out.push(0);
        }
        put_int(&mut out, window_len);
        put_int(&mut out, target_len);
        // `Delta_Indicator`: no section is compressed.
        out.push(0);
        lens.into_iter().for_each(|len| put_int(&mut out, len));
        sections.into_iter().for_each(|section| out.extend_from_slice(section));
        out
    }
}

/// Start and end of the first run of one byte that saves bytes even if it splits an insert. The
/// search compares aligned words, so it misses a run without a whole word.
fn long_run(bytes: &[u8]) -> Option<(usize, usize)> {
    let words = bytes.as_chunks::<8>().0;
    let from = words.iter().position(|word| *word == [word[0]; 8])? * 8;
    let is_same = |byte: &&u8| **byte == bytes[from];
    let before = bytes[..from].iter().rev().take_while(is_same).count();
    let after = bytes[from..].iter().take_while(is_same).count();
    Some((from - before, from + after))
}

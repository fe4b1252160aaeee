//! The default code table of RFC 3284, 5.6: one byte encodes one or two instructions.

use super::addresses::{MODES, NEAR};

/// One instruction. A size of 0 means that the size follows the code, as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instruction {
    /// Takes bytes from the data section.
    Add { size: usize },
    /// Copies bytes from an address, which is encoded in this mode.
    Copy { size: usize, mode: usize },
    /// Repeats one byte of the data section.
    Run,
}

const RUN: usize = 0;
/// The code of an add with its size after it. The codes of adds of 1 to 17 bytes follow.
const ADD: usize = 1;
const ADD_MAX: usize = 17;
/// The code of a copy in mode 0 with its size after it. The codes of copies of 4 to 18 bytes
/// follow, then those of the next mode.
const COPY: usize = 19;
const COPY_MIN: usize = 4;
const COPY_MAX: usize = 18;
const COPIES: usize = COPY_MAX - COPY_MIN + 2;
/// The first code of an add of 1 to 4 bytes with a copy of 4 to 6, in modes with integer addresses.
const ADD_COPY: usize = COPY + MODES * COPIES;
/// The same with a copy of 4 bytes only, in modes with addresses of one byte.
const ADD_COPY_SAME: usize = ADD_COPY + (2 + NEAR) * 12;
/// The first code of a copy of 4 bytes with an add of 1, one for each mode.
const COPY_ADD: usize = ADD_COPY_SAME + (MODES - 2 - NEAR) * 4;
const _: () = assert!(COPY_ADD + MODES == 256);

/// The code of an instruction, and whether the code includes its size.
pub(super) fn single(instruction: Instruction) -> (u8, bool) {
    use Instruction::{Add, Copy, Run};
    let (code, has_size) = match instruction {
        Add { size: size @ 1..=ADD_MAX } => (ADD + size, true),
        Add { .. } => (ADD, false),
        Copy { size: size @ COPY_MIN..=COPY_MAX, mode } => (COPY + mode * COPIES + size - COPY_MIN + 1, true),
        Copy { mode, .. } => (COPY + mode * COPIES, false),
        Run => (RUN, false),
    };
    (code as u8, has_size)
}

/// The code of two successive instructions, if there is one.
pub(super) fn double(first: Instruction, second: Instruction) -> Option<u8> {
    use Instruction::{Add, Copy};
    let code = match (first, second) {
        (Add { size: add @ 1..=4 }, Copy { size: copy @ 4..=6, mode }) if mode < 2 + NEAR => {
            ADD_COPY + 12 * mode + 3 * (add - 1) + copy - 4
        }
        (Add { size: add @ 1..=4 }, Copy { size: 4, mode }) if mode >= 2 + NEAR => {
            ADD_COPY_SAME + 4 * (mode - 2 - NEAR) + add - 1
        }
        (Copy { size: 4, mode }, Add { size: 1 }) => COPY_ADD + mode,
        _ => return None,
    };
    Some(code as u8)
}

/// The one or two instructions of a code.
pub(super) fn instructions(code: u8) -> (Instruction, Option<Instruction>) {
    use Instruction::{Add, Copy, Run};
    let code = code as usize;
    match code {
        RUN => (Run, None),
        ADD..COPY => (Add { size: code - ADD }, None),
        COPY..ADD_COPY => {
            let (mode, size) = ((code - COPY) / COPIES, (code - COPY) % COPIES);
            let size = if size == 0 { 0 } else { size + COPY_MIN - 1 };
            (Copy { size, mode }, None)
        }
        ADD_COPY..ADD_COPY_SAME => {
            let (mode, sizes) = ((code - ADD_COPY) / 12, (code - ADD_COPY) % 12);
            (Add { size: sizes / 3 + 1 }, Some(Copy { size: sizes % 3 + 4, mode }))
        }
        ADD_COPY_SAME..COPY_ADD => {
            let (mode, size) = ((code - ADD_COPY_SAME) / 4, (code - ADD_COPY_SAME) % 4);
            (Add { size: size + 1 }, Some(Copy { size: 4, mode: mode + 2 + NEAR }))
        }
        _ => (Copy { size: 4, mode: code - COPY_ADD }, Some(Add { size: 1 })),
    }
}

#[cfg(test)]
mod tests {
    use super::Instruction::{Add, Copy, Run};
    use super::*;

    /// Samples of the table of RFC 3284, 5.6, by its index.
    #[test]
    fn code_table_is_that_of_the_rfc() {
        let check = |code, first, second| assert_eq!(instructions(code), (first, second), "{code}");
        check(0, Run, None);
        check(1, Add { size: 0 }, None);
        check(18, Add { size: 17 }, None);
        check(19, Copy { size: 0, mode: 0 }, None);
        check(34, Copy { size: 18, mode: 0 }, None);
        check(35, Copy { size: 0, mode: 1 }, None);
        check(162, Copy { size: 18, mode: 8 }, None);
        check(163, Add { size: 1 }, Some(Copy { size: 4, mode: 0 }));
        check(174, Add { size: 4 }, Some(Copy { size: 6, mode: 0 }));
        check(234, Add { size: 4 }, Some(Copy { size: 6, mode: 5 }));
        check(235, Add { size: 1 }, Some(Copy { size: 4, mode: 6 }));
        check(246, Add { size: 4 }, Some(Copy { size: 4, mode: 8 }));
        check(247, Copy { size: 4, mode: 0 }, Some(Add { size: 1 }));
        check(255, Copy { size: 4, mode: 8 }, Some(Add { size: 1 }));
    }

    #[test]
    fn codes_round_trip_through_their_instructions() {
        for code in 0..=u8::MAX {
            match instructions(code) {
                (first, Some(second)) => assert_eq!(double(first, second), Some(code)),
                (first, None) => assert_eq!(single(first).0, code),
            }
        }
    }
}

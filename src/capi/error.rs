//! Messages and codes.

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int};
use std::fmt::Write;

use crate::error::{Error, code_to_errno};

/// Enough for every message: names are cut at 87 bytes. No more, since the thread number has all thread-local memory of the
/// library in the static block, where glibc has 1664 bytes for everything that is opened at run time.
const SIZE: usize = 320;
// pmemset_perror puts one on the stack, and as much again and more of what the program has to say.
const _: () = assert!(SIZE < 512);

thread_local! {
    // Fixed and without a destructor: setting a message must not fail, and a thread may outlive the library's handle.
    static MESSAGE: UnsafeCell<[u8; SIZE]> = const { UnsafeCell::new([0; SIZE]) };
}

struct Text<'a> {
    bytes: &'a mut [u8; SIZE],
    len: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let take = text.len().min(SIZE - 1 - self.len);
        self.bytes[self.len..self.len + take].copy_from_slice(&text.as_bytes()[..take]);
        self.len += take;
        Ok(())
    }
}

/// Makes an error this thread's message.
pub(crate) fn set_message(error: &Error) {
    MESSAGE.with(|message| {
        // SAFETY: only this thread has it, and formatting an error does not come back here.
        let bytes = unsafe { &mut *message.get() };
        let mut text = Text { bytes, len: 0 };
        // Writing to it never fails.
        let _ = write!(text, "{error}");
        let len = text.len;
        text.bytes[len] = 0;
    });
}

/// Returns the errno that an error code stands for.
#[unsafe(no_mangle)]
pub extern "C" fn pmemset_err_to_errno(err: c_int) -> c_int {
    code_to_errno(err)
}

/// Returns the message of this thread's last failed call; it stays until the next failure.
#[unsafe(no_mangle)]
pub extern "C" fn pmemset_errormsg() -> *const c_char {
    MESSAGE.with(|message| message.get().cast_const().cast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Name;

    #[test]
    fn the_longest_messages_fit() {
        let (name, most) = (Name::new(&[b'x'; 300]), usize::MAX);
        let longest = [
            Error::CannotReadBounds(name),
            Error::RegionNotFound(name),
            Error::InvalidSourceType(name),
            Error::SourceDeleted(name),
            Error::Pmem2("pmem2_vm_reservation_extend", i32::MIN, name),
            Error::SystemAt(
                "make durable the directory entry of",
                name,
                libc::ENOTRECOVERABLE,
            ),
            Error::CannotCreateTemporary(name, libc::ENOTRECOVERABLE),
            Error::NoRoom(most, libc::ENOMEM),
            Error::FileTooSmall(most, most, most),
            Error::LengthOutOfRange(most, most),
        ];
        for error in longest {
            set_message(&error);
            // SAFETY: this thread's message, which ends in a zero byte.
            let kept = unsafe { std::ffi::CStr::from_ptr(pmemset_errormsg()) };
            assert_eq!(kept.to_str(), Ok(error.to_string().as_str()));
        }
    }
}

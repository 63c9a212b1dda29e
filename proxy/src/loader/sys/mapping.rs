//! An array map in our own address space: reads and writes without system calls.

use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use bowline_abi::Plain;

/// Bytes that are mapped at a time. The kernel makes all pages of a mapping resident at once, so
/// only the windows that are used are mapped.
const WINDOW: usize = 256 * 1024;

/// A BPF_F_MMAPABLE array of T.
///
/// The programs read it at any time: an entry that they can reach is changed only by
/// [`ArrayMapping::store_u32`].
#[derive(Debug)]
pub struct ArrayMapping<T> {
    fd: OwnedFd,
    entries: u32,
    windows: Vec<Option<NonNull<u8>>>,
    entry: PhantomData<T>,
}

// SAFETY: the windows are memory of this process that nothing else points to; any thread may use
// them, and `&mut self` is asked for wherever they are written or made.
unsafe impl<T> Send for ArrayMapping<T> {}

impl<T: Plain> ArrayMapping<T> {
    /// The kernel rounds array values up to 8 bytes.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Takes an array map of `entries` values of T's size (the caller has compared them).
    pub fn new(fd: OwnedFd, entries: u32) -> Self {
        let windows = (Self::STRIDE * entries as usize).div_ceil(WINDOW);
        Self { fd, entries, windows: vec![None; windows], entry: PhantomData }
    }

    /// The map.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Entries of the map.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Writes an entry that no program can reach. An entry may lie across two windows, so it is
    /// written word by word.
    pub fn write(&mut self, index: u32, value: &T) -> io::Result<()> {
        const { assert!(size_of::<T>().is_multiple_of(4), "entries are made of words") }
        let source = std::ptr::from_ref(value).cast::<u32>();
        for word in 0..size_of::<T>() / 4 {
            // SAFETY: T is Plain, of this many words; its alignment is at least a word's in every
            // ABI type, and read_unaligned asks for none.
            let value = unsafe { source.add(word).read_unaligned() };
            self.word(index, word)?.store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Stores one word of an entry atomically, after every earlier write.
    pub fn store_u32(&mut self, index: u32, word: usize, value: u32) -> io::Result<()> {
        let word = self.word(index, word)?;
        fence(Ordering::Release);
        word.store(value, Ordering::Release);
        Ok(())
    }

    /// Reads one entry by a system call, so that reading maps no window.
    pub fn read(&self, index: u32) -> io::Result<Option<T>> {
        super::lookup(self.fd.as_fd(), &index)
    }

    fn word(&mut self, index: u32, word: usize) -> io::Result<&AtomicU32> {
        if index >= self.entries || word >= size_of::<T>() / 4 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let offset = Self::STRIDE * index as usize + 4 * word;
        let window = self.window(offset / WINDOW)?;
        // SAFETY: the window spans WINDOW bytes or up to the end of the map, the offset lies in
        // the map, and words are aligned. The memory is shared with the kernel, whose programs
        // only read it: atomics are the right access.
        Ok(unsafe { AtomicU32::from_ptr(window.as_ptr().add(offset % WINDOW).cast()) })
    }

    fn window(&mut self, number: usize) -> io::Result<NonNull<u8>> {
        if let Some(window) = self.windows[number] {
            return Ok(window);
        }
        let length = self.window_length(number);
        // SAFETY: a new shared mapping of a descriptor that we own, at an address of the kernel's
        // choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.fd.as_raw_fd(),
                (number * WINDOW) as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let window = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        self.windows[number] = Some(window);
        Ok(window)
    }

    fn window_length(&self, number: usize) -> usize {
        const PAGE: usize = 4096;
        let all = (Self::STRIDE * self.entries as usize).next_multiple_of(PAGE);
        WINDOW.min(all - number * WINDOW)
    }
}

impl<T> Drop for ArrayMapping<T> {
    fn drop(&mut self) {
        const PAGE: usize = 4096;
        let stride = size_of::<T>().next_multiple_of(8);
        let all = (stride * self.entries as usize).next_multiple_of(PAGE);
        for (number, window) in self.windows.iter().enumerate() {
            let Some(window) = window else { continue };
            let length = WINDOW.min(all - number * WINDOW);
            // SAFETY: this window was mapped with this length, and no reference to it is left.
            unsafe { libc::munmap(window.as_ptr().cast(), length) };
        }
    }
}

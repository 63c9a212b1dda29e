//! An array map in our own address space: reads and writes without system calls.

use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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

    /// Calls `each` with every entry, in order. See [`scan`].
    pub fn for_each(&self, mut each: impl FnMut(u32, &T)) -> io::Result<()> {
        scan(self.fd.as_fd(), size_of::<T>(), self.entries, |index, bytes| {
            // SAFETY: the slice has T's size, and any bytes are a valid Plain.
            each(index, &unsafe { bytes.as_ptr().cast::<T>().read_unaligned() });
        })
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
        WINDOW.min(mapped_bytes(size_of::<T>(), self.entries) - number * WINDOW)
    }
}

impl<T> Drop for ArrayMapping<T> {
    fn drop(&mut self) {
        let all = mapped_bytes(size_of::<T>(), self.entries);
        for (number, window) in self.windows.iter().enumerate() {
            let Some(window) = window else { continue };
            let length = WINDOW.min(all - number * WINDOW);
            // SAFETY: this window was mapped with this length, and no reference to it is left.
            unsafe { libc::munmap(window.as_ptr().cast(), length) };
        }
    }
}

/// Bytes of a whole mapping: values rounded up to 8, the sum to a page.
fn mapped_bytes(value_size: usize, entries: u32) -> usize {
    const PAGE: usize = 4096;
    (value_size.next_multiple_of(8) * entries as usize).next_multiple_of(PAGE)
}

/// Calls `each` with the bytes of every value of an array that may be mapped, in order. Half a
/// million entries take milliseconds, where a system call for each batch took a third of a second;
/// the pages are given back at the end. What is written meanwhile is seen word by word.
pub fn scan(
    fd: BorrowedFd<'_>,
    value_size: usize,
    entries: u32,
    mut each: impl FnMut(u32, &[u8]),
) -> io::Result<()> {
    struct Mapped(*mut libc::c_void, usize);
    impl Drop for Mapped {
        fn drop(&mut self) {
            // SAFETY: mapped below with this length, and no reference to it is left.
            unsafe { libc::munmap(self.0, self.1) };
        }
    }
    let length = mapped_bytes(value_size, entries);
    // SAFETY: a new shared mapping, for reading, at an address of the kernel's choice.
    let address = unsafe {
        let fd = fd.as_raw_fd();
        libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, fd, 0)
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mapped = Mapped(address, length);
    let words_each = value_size.next_multiple_of(8) / 4;
    let mut bytes = vec![0_u8; 4 * words_each];
    for index in 0..entries {
        for (number, out) in bytes.chunks_exact_mut(4).enumerate() {
            let at = words_each * index as usize + number;
            // SAFETY: the word lies in the mapping and is aligned; others may write it, so it is
            // read atomically.
            let word = unsafe { AtomicU32::from_ptr(mapped.0.cast::<u32>().add(at)) };
            out.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        each(index, &bytes[..value_size]);
    }
    Ok(())
}

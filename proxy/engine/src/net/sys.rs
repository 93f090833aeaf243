//! The only `unsafe` of the engine: socket options that no safe library offers, and receiving into memory that nobody has
//! written to before.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use bytes::BytesMut;
use rustix::net::{RecvFlags, recv};

/// Receives into the free room of `buffer`.
pub fn receive(socket: impl AsFd, buffer: &mut BytesMut) -> io::Result<usize> {
    let ((_, _), count) = recv(socket, buffer.spare_capacity_mut(), RecvFlags::empty())?;
    let length = buffer.len() + count;
    // SAFETY: the kernel has written the `count` octets behind those that were there, and no more than there was room for.
    unsafe { buffer.set_len(length) };
    Ok(count)
}

/// Sets a socket option given by numbers.
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is borrowed and so open; the pointer and length denote `value`, which outlives the call,
    // and the kernel only reads it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets an IPv6 socket accept connections to any address.
pub fn set_transparent_v6(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_TRANSPARENT, &1_i32.to_ne_bytes())
}

/// Turns TCP Fast Open on for a listening socket.
pub fn set_fast_open(socket: &impl AsFd, queue: u32) -> io::Result<()> {
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &queue.to_ne_bytes())
}

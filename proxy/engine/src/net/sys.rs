//! The only `unsafe` of the engine: socket options and interface addresses, which no safe library of ours offers, and receiving
//! into memory that nobody has written to before.
#![allow(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use bytes::BytesMut;
use rustix::net::{RecvFlags, SendFlags, recv};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Receives into the free room of `buffer`.
pub fn receive(socket: impl AsFd, buffer: &mut BytesMut) -> io::Result<usize> {
    let ((_, _), count) = recv(socket, buffer.spare_capacity_mut(), RecvFlags::empty())?;
    let length = buffer.len() + count;
    // SAFETY: the kernel has written the `count` octets behind those that were there, and no more than there was room for.
    unsafe { buffer.set_len(length) };
    Ok(count)
}

/// Sends some of `bytes` over the socket of a connection that has left them in the outbox.
pub fn send(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: a connection takes back what it left before it closes its socket, so the descriptor is open.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
}

/// Another descriptor of the same socket; nothing if the process may have no more of them.
pub fn duplicate(socket: RawFd) -> Option<OwnedFd> {
    // SAFETY: as in `send`.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    socket.try_clone_to_owned().ok()
}

/// Ends the connection of a socket whose bytes cannot be sent: they are written already to who left them in the outbox.
pub fn end(socket: RawFd) {
    // SAFETY: as in `send`.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    // What has ended already is as it should be.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

/// Has the loop tell when there is room to send; gives the socket back if that cannot be.
pub fn watch(socket: OwnedFd) -> Result<AsyncFd<OwnedFd>, OwnedFd> {
    // SAFETY: an owned descriptor is open, and the same, for as long as it is there.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::WRITABLE) };
    watched.map_err(|error| error.into_parts().0)
}

/// Sets a socket option given by numbers.
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is borrowed and so open; the pointer and length denote `value`, which outlives the call,
    // and the kernel only reads it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets an IPv6 socket accept connections to any address, or connect from any.
pub fn set_transparent_v6(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_TRANSPARENT, &1_i32.to_ne_bytes())
}

/// Leaves the choice of a port to `connect`, where `bind` says only the address.
pub fn set_bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket.as_fd(), libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1_i32.to_ne_bytes())
}

/// Turns TCP Fast Open on for a listening socket.
pub fn set_fast_open(socket: &impl AsFd, queue: u32) -> io::Result<()> {
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &queue.to_ne_bytes())
}

/// The addresses of this host's interfaces, in the order of the system.
pub fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the call writes a list of its own to `first`, or nothing and fails.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = first;
    // SAFETY: every pointer of the list is null or denotes an element of it until the list is freed below.
    while let Some(interface) = unsafe { next.as_ref() } {
        // SAFETY: as above; an address, where there is one, is as long as its family says.
        found.extend(unsafe { ip_of(interface.ifa_addr) });
        next = interface.ifa_next;
    }
    // SAFETY: the list came from `getifaddrs` and nothing refers to it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// The IP address, if it is one.
///
/// # Safety
/// `address` is null or denotes a socket address as long as its family says.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise.
    let family = i32::from(unsafe { address.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: the family says that it is a `sockaddr_in`; it is read wherever it lies.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a `sockaddr_in6`; it is read wherever it lies.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::from(v6.sin6_addr.s6_addr))
        }
        _ => None,
    }
}

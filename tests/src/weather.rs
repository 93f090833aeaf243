//! A network far away and none too good, in a namespace of one's own: what is sent over loopback takes a way through this
//! program, which delays, loses, doubles and overtakes packets. In place of the kernel's `sch_netem`, which many kernels lack.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The device through which the packets go.
const DEVICE: &str = "weather";
/// More than any packet of the device.
const PACKET: usize = 2048;
/// Packets under way; what comes beyond is lost, as in a router.
const UNDER_WAY: usize = 10_000;

/// What happens to each packet; the shares are per thousand.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// How long each packet is under way.
    pub delay: Duration,
    /// How many are lost.
    pub lost: u16,
    /// How many come twice.
    pub doubled: u16,
    /// How many come at once and so overtake those before.
    pub hasty: u16,
}

impl Weather {
    /// Lets it blow on the loopback of this network namespace, until what it returns is dropped.
    ///
    /// # Errors
    /// This is not a namespace of its own, or there is no right to change it.
    pub fn on_loopback(self) -> Result<Blowing> {
        let here = std::fs::read_link("/proc/thread-self/ns/net")?;
        let links = std::fs::read_to_string("/proc/net/dev")?;
        let others = links.lines().skip(2).filter(|line| !line.trim_start().starts_with("lo:"));
        ensure!(others.count() == 0, "{} is not a namespace of its own", here.display());
        let device = device()?;
        // what this host sends to itself is routed to the device; what comes from there is local
        let script = format!(
            "ip link set {DEVICE} mtu 1500 up
             for file in accept_local route_localnet; do echo 1 >/proc/sys/net/ipv4/conf/{DEVICE}/$file; done
             echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 0 >/proc/sys/net/ipv4/conf/{DEVICE}/rp_filter
             ip route add 127.0.0.0/8 dev {DEVICE} src 127.0.0.1 table 10
             ip rule add pref 10 iif lo lookup 10
             ip rule add pref 100 lookup local
             ip rule del pref 0"
        );
        let output = Command::new("sh").args(["-ec", &script]).output().context("no sh")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::thread::Builder::new().name("weather".to_owned()).spawn(move || self.blow(device))?;
        Ok(Blowing { delay: self.delay })
    }

    fn blow(self, mut device: File) -> std::io::Result<()> {
        let mut under_way: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>> = BinaryHeap::new();
        let mut random = fastrand::Rng::with_seed(1);
        let mut packet = [0; PACKET];
        for number in 0_u64.. {
            let now = Instant::now();
            while under_way.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                if let Some(Reverse((_, _, packet))) = under_way.pop() {
                    device.write_all(&packet)?;
                }
            }
            let wait = under_way.peek().map(|Reverse((due, ..))| due.saturating_duration_since(now));
            let wait = wait.map(|wait| Timespec::try_from(wait).unwrap_or_default());
            if poll(&mut [PollFd::new(&device, PollFlags::IN)], wait.as_ref())? == 0 {
                continue;
            }
            let length = device.read(&mut packet)?;
            let mut chance = |share| random.u16(..1000) < share;
            if chance(self.lost) || under_way.len() >= UNDER_WAY {
                continue;
            }
            let delay = if chance(self.hasty) { Duration::ZERO } else { self.delay };
            let times = if chance(self.doubled) { 2 } else { 1 };
            for _ in 0..times {
                under_way.push(Reverse((Instant::now() + delay, number, packet[..length].to_vec())));
            }
        }
        Ok(())
    }
}

/// Weather that ends with this.
#[derive(Debug)]
pub struct Blowing {
    /// How long a packet is under way.
    pub delay: Duration,
}

impl Drop for Blowing {
    fn drop(&mut self) {
        // before the rules that send packets on their long way; if it fails what follows is slow, as it was
        let _ = Command::new("ip").args(["rule", "add", "pref", "0", "lookup", "local"]).status();
    }
}

/// A new device that gives this program what is sent through it.
#[expect(unsafe_code, reason = "no library of ours knows how to make such a device")]
fn device() -> Result<File> {
    use rustix::ioctl::{Opcode, Setter, ioctl};
    const TUNSETIFF: Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
    /// `IFF_TUN | IFF_NO_PI`: packets of IP, nothing before them.
    const FLAGS: u16 = 0x0001 | 0x1000;
    /// `struct ifreq`
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    let mut request = Request { name: [0; 16], flags: FLAGS, rest: [0; 22] };
    request.name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    let file = File::options().read(true).write(true).open("/dev/net/tun").context("no /dev/net/tun")?;
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which `Request` is: 16 octets of name, then a union of 24 that starts with the flags
    unsafe { ioctl(&file, Setter::<TUNSETIFF, Request>::new(request)) }
        .context("no device: this takes root")?;
    Ok(file)
}

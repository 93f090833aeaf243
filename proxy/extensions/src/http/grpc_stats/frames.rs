//! Counts the messages of a gRPC body: frames of five bytes head (flag, length) and that many bytes.

/// Where in a frame the body is, and how many frames began.
#[derive(Debug, Default)]
pub(super) struct FrameCounter {
    /// Bytes of the head seen, 0 to 4.
    head: u8,
    length: u32,
    /// Bytes of the message still to come.
    left: u32,
    messages: u64,
    taken: u64,
}

impl FrameCounter {
    /// Looks at the next bytes of the body; how many messages began in them.
    pub(super) fn inspect(&mut self, mut data: &[u8]) -> u64 {
        let before = self.messages;
        loop {
            let skip = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            // What is skipped is at most what was left, which fits.
            self.left -= u32::try_from(skip).unwrap_or(self.left);
            let Some((byte, rest)) = data.get(skip..).and_then(<[u8]>::split_first) else { break };
            data = rest;
            if self.head == 0 {
                self.messages += 1;
                self.length = 0;
            } else {
                self.length = self.length << 8 | u32::from(*byte);
            }
            self.head += 1;
            if self.head == 5 {
                self.head = 0;
                self.left = self.length;
            }
        }
        self.messages - before
    }

    /// Messages that began so far.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Messages that began since this was last asked.
    pub(super) fn take_new(&mut self) -> u64 {
        let new = self.messages - self.taken;
        self.taken = self.messages;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend((length as u32).to_be_bytes());
        frame.resize(5 + length, 7);
        frame
    }

    #[test]
    fn messages_are_counted_however_the_body_is_cut() {
        let body = [frame(3), frame(0), frame(300), frame(0)].concat();
        for size in [1, 2, 5, 7, body.len()] {
            let mut counter = FrameCounter::default();
            let began: u64 = body.chunks(size).map(|part| counter.inspect(part)).sum();
            assert_eq!((began, counter.messages(), counter.take_new(), counter.take_new()), (4, 4, 4, 0));
        }
    }

    #[test]
    fn the_longest_length_does_not_overflow() {
        let mut counter = FrameCounter::default();
        counter.inspect(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
        assert_eq!(counter.left, u32::MAX - 3);
        assert_eq!(counter.messages(), 1);
    }
}

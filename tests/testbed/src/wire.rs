//! Frames on the control socket: a length (u32, little-endian), then that much JSON.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// More than the largest reply (100,000 socket states) and less than a mistake.
const LONGEST: u32 = 256 << 20;

/// Writes one frame with a single write, so that small ones arrive whole.
pub(super) fn write(stream: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = u32::try_from(frame.len() - 4).map_err(|_| io::ErrorKind::InvalidData)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&frame)
}

/// Reads one frame; `None` if the stream ends before it.
pub(super) fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut json = vec![0; length as usize];
    stream.read_exact(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order() {
        let mut stream = Vec::new();
        write(&mut stream, &vec![1u64, u64::MAX]).unwrap();
        write(&mut stream, &"second").unwrap();
        let mut stream = stream.as_slice();
        assert_eq!(read::<Vec<u64>>(&mut stream).unwrap(), Some(vec![1, u64::MAX]));
        assert_eq!(read::<String>(&mut stream).unwrap().as_deref(), Some("second"));
        assert_eq!(read::<String>(&mut stream).unwrap(), None);
    }

    #[test]
    fn a_cut_frame_is_an_error() {
        let mut stream = Vec::new();
        write(&mut stream, &"cut").unwrap();
        assert!(read::<String>(&mut &stream[..6]).is_err());
    }

    #[test]
    fn an_absurd_length_is_an_error() {
        assert!(read::<String>(&mut [0xff; 8].as_slice()).is_err());
    }
}

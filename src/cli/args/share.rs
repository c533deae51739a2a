//! Options of the commands that turn adapters into pictures, and back.

use super::*;

#[derive(Args)]
#[command(after_help = "\
A file of at most 2,953 bytes is one code, whose bytes are those of the file. A larger one becomes a set of codes, in files \
named OUT-1-of-3.png and so on; each holds its number, the number of codes, and a digest of the file. `mynah train --bytes 2953` makes an \
adapter for one code. \
With --json: bytes, codes (each with file, version, correction, modules, pixels).

Examples:
  mynah share notes.mynah
  mynah share notes.mynah --qr notes.png")]
pub struct Share {
    /// An adapter of `mynah train`
    pub adapter: PathBuf,
    /// Write a PNG file, or one for each code; - is the terminal [default: -]
    #[arg(long, value_name = "OUT.png")]
    pub qr: Option<PathBuf>,
    /// Replace the files of --qr if there are any
    #[arg(long, requires = "qr")]
    pub force: bool,
}

#[derive(Args)]
#[command(after_help = "\
Pictures may be photos of a screen, turned or at an angle, in any order; one picture may hold several codes. \
With --json: file, bytes, codes, kind.

Examples:
  mynah receive notes.png -o notes.mynah
  mynah receive photo-1.jpg photo-2.jpg photo-3.jpg -o notes.mynah")]
pub struct Receive {
    /// PNG or JPEG files with the QR codes of one adapter
    #[arg(value_name = "PICTURE", required = true)]
    pub pictures: Vec<PathBuf>,
    /// Write the adapter to this file
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// Replace the file of -o if there is one
    #[arg(long)]
    pub force: bool,
}

//! Files as QR codes: what is drawn is read again, also from a bad photo; what is no such picture is refused by name.

use image::codecs::jpeg::JpegEncoder;
use image::{GrayImage, ImageFormat, Luma, imageops};
use mynah::bytes::Limits;
use mynah::picture::{self, MOST, Parts};
use mynah::{Error, Result};
use serde_json::Value;
use std::io::Cursor;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

/// Bytes without a pattern.
fn noise(n: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..n).map(|_| next()).collect()
}

fn limits() -> Limits {
    Limits::default()
}

/// The pictures of a file.
fn drawn(file: &[u8]) -> Vec<GrayImage> {
    let codes = picture::codes(file, &limits()).unwrap();
    codes.iter().map(|code| image::load_from_memory(&code.png().unwrap()).unwrap().into_luma8()).collect()
}

fn png(picture: &GrayImage) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}

fn jpeg(picture: &GrayImage, quality: u8) -> Vec<u8> {
    let mut out = Vec::new();
    JpegEncoder::new_with_quality(&mut out, quality).encode_image(picture).unwrap();
    out
}

/// A picture as a camera may see it: scaled, turned, its far side smaller by a share; the ground is `ground`.
fn seen(picture: &GrayImage, scale: f64, degrees: f64, tilt: f64, ground: u8) -> GrayImage {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let (w, h) = (f64::from(picture.width()), f64::from(picture.height()));
    let size = |a: f64, b: f64| ((a * cos.abs() + b * sin.abs()) * scale * (1.0 + tilt)).ceil() + 2.0;
    let (wide, tall) = (size(w, h), size(h, w));
    GrayImage::from_fn(wide as u32, tall as u32, |x, y| {
        let (x, y) = (f64::from(x) - wide / 2.0 + 0.5, f64::from(y) - tall / 2.0 + 0.5);
        let depth = 1.0 / (scale * (1.0 + tilt * y / tall));
        let (u, v) = ((x * cos + y * sin) * depth, (y * cos - x * sin) * depth);
        let (u, v) = ((u + w / 2.0 - 0.5) as f32, (v + h / 2.0 - 0.5) as f32);
        imageops::interpolate_bilinear(picture, u, v).unwrap_or(Luma([ground]))
    })
}

/// The file in pictures that hold its codes.
fn read(pictures: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut parts = Parts::new();
    for picture in pictures {
        for payload in picture::read(picture, &limits())?.payloads {
            parts.add(&payload, &limits())?;
        }
    }
    parts.finish()
}

#[test]
fn clean_pictures_give_the_file() {
    for (size, codes, first) in
        [(1, 1, "1-H"), (100, 1, "5-L"), (MOST, 1, "40-L"), (MOST + 1, 2, "28-L"), (10_000, 4, "37-L")]
    {
        let file = noise(size, 7);
        let drawn = picture::codes(&file, &limits()).unwrap();
        assert_eq!(drawn.len(), codes, "{size}");
        let (version, level) = (drawn[0].version(), drawn[0].correction());
        assert_eq!(format!("{version}-{level}"), first, "{size}");
        let pictures: Vec<Vec<u8>> = drawn.iter().map(|code| code.png().unwrap()).collect();
        assert!(read(&pictures).unwrap() == file, "{size}");
        if codes == 1 {
            // Any reader's raw bytes are the file.
            assert_eq!(picture::read(&pictures[0], &limits()).unwrap().payloads, [file]);
        }
    }
}

/// Scaled to 0.7, turned by 7°, saved as JPEG of quality 60.
#[test]
fn bad_copies_give_the_file() {
    for size in [100, MOST, 10_000] {
        let file = noise(size, 3);
        let copies: Vec<Vec<u8>> = drawn(&file).iter().map(|p| jpeg(&seen(p, 0.7, 7.0, 0.0, 255), 60)).collect();
        let began = Instant::now();
        assert!(read(&copies).unwrap() == file, "{size}");
        eprintln!("{size} bytes: {:?} for {} pictures", began.elapsed(), copies.len());
    }
}

/// Turned by other angles, at an angle, on a dark ground, in grey light.
#[test]
fn photos_give_the_file() {
    for (size, scale, degrees, tilt, ground) in [
        // Large modules, in which many places look like the middle of an alignment pattern.
        (30, 1.0, 0.0, 0.0, 255),
        (400, 1.0, 45.0, 0.0, 0),
        (400, 0.5, 100.0, 0.15, 90),
        (1_500, 0.8, 183.0, 0.05, 255),
        (MOST, 1.0, -20.0, 0.02, 30),
        (MOST, 0.55, 3.0, 0.0, 255),
    ] {
        let file = noise(size, 1);
        let mut copy = seen(&drawn(&file)[0], scale, degrees, tilt, ground);
        let width = f64::from(copy.width());
        copy.enumerate_pixels_mut()
            .for_each(|(x, _, p)| p.0[0] = 20 + (f64::from(p.0[0]) * (0.5 + 0.3 * f64::from(x) / width)) as u8);
        assert!(read(&[jpeg(&copy, 70)]).is_ok_and(|read| read == file), "{size} {scale} {degrees} {tilt}");
    }
}

#[test]
fn a_picture_may_hold_several_codes() {
    let file = noise(7_000, 9);
    let codes = drawn(&file);
    let side = codes[0].width();
    let mut sheet = GrayImage::from_pixel(side * 2, side * 2, Luma([255]));
    for (i, code) in codes.iter().enumerate() {
        imageops::replace(&mut sheet, code, i64::from(side) * (i as i64 % 2), i64::from(side) * (i as i64 / 2));
    }
    let found = picture::read(&png(&sheet), &limits()).unwrap();
    assert_eq!((found.payloads.len(), found.unread), (3, 0));
    assert!(read(&[png(&sheet)]).unwrap() == file);
}

/// What codes hold, and the error: its variant, and words of its message.
#[test]
fn sets_that_do_not_fit_are_told() {
    let held = |file: &[u8]| -> Vec<Vec<u8>> {
        drawn(file).iter().flat_map(|p| picture::read(&png(p), &limits()).unwrap().payloads).collect()
    };
    let (one, two, small) = (held(&noise(7_000, 1)), held(&noise(7_000, 2)), noise(60, 1));
    let changed = |at: usize, to: u8| {
        let mut piece = one[1].clone();
        piece[at] = to;
        piece
    };
    let [a, b, c] = [&one[0], &one[1], &one[2]].map(Vec::as_slice);
    let (later, none, beyond) = (changed(4, 2), changed(5, 0), changed(5, 4));
    let (more, other, short) = (changed(6, 9), changed(30, !one[1][30]), one[1][..9].to_vec());
    let many = [&one[1][..6], &[65], &one[1][7..]].concat();
    let cases: &[(&str, &[&[u8]], &str, &str)] = &[
        ("no code", &[], "Mismatch", "found none"),
        ("missing members", &[b], "Mismatch", "expected 3, found 1; missing: 1, 3"),
        ("a member of another file", &[a, &two[1]], "Mismatch", "QR code 2 of 3 is of another file"),
        ("a whole file among members", &[a, &small], "Mismatch", "QR code 1 of 1 is of another file"),
        ("a member among whole files", &[&small, a], "Mismatch", "QR code 1 of 3 is of another file"),
        ("a later version", &[&later], "Unsupported", "version of a set of QR codes: 2"),
        ("number 0", &[&none], "Corrupt", "QR code 0 of 3"),
        ("a number beyond the count", &[&beyond], "Corrupt", "QR code 4 of 3"),
        ("another count", &[a, &more], "Corrupt", "QR code 2 is one of 9, the ones before are of 3"),
        ("two contents of one number", &[b, &other], "Corrupt", "QR code 2 of 3 differs"),
        ("a changed member", &[a, &other, c], "Corrupt", "digest differs"),
        ("a header cut off", &[&short], "Corrupt", "ends early"),
        ("too many codes", &[&many], "Limit", "QR codes of the file: 65; at most 64"),
    ];
    for (name, payloads, variant, word) in cases {
        let mut parts = Parts::new();
        let added = payloads.iter().try_for_each(|payload| parts.add(payload, &limits()).map(drop));
        let e = added.and_then(|()| parts.finish().map(drop)).unwrap_err();
        assert!(format!("{e:?}").starts_with(variant) && e.to_string().contains(word), "{name}: {e:?}: {e}");
    }
    // In any order, and twice, they are the file.
    let mut parts = Parts::new();
    let again: Vec<bool> = [c, a, c, b].iter().map(|payload| parts.add(payload, &limits()).unwrap().again).collect();
    assert_eq!(again, [false, false, true, false]);
    assert!(parts.missing().is_empty() && parts.finish().unwrap() == noise(7_000, 1));
}

#[test]
fn files_that_no_codes_hold_are_refused() {
    let refused = |file: &[u8], limits: &Limits| picture::codes(file, limits).err().unwrap();
    assert!(matches!(refused(&[], &limits()), Error::Invalid { .. }));
    assert!(matches!(refused(&noise(64 * 2_938 + 1, 1), &limits()), Error::Limit { asked: 65, allowed: 64, .. }));
    // A file that looks like a member travels as a set, and arrives.
    for size in [20, MOST] {
        let mut file = noise(size, 4);
        file[..4].copy_from_slice(&[0x8e, b'M', b'Q', b'R']);
        assert!(read(&drawn(&file).iter().map(png).collect::<Vec<_>>()).unwrap() == file);
    }
}

/// A PNG file of given dimensions with no data for its pixels.
fn bomb(w: u32, h: u32) -> Vec<u8> {
    let chunk = |name: &[u8], data: &[u8]| {
        let body = [name, data].concat();
        let bit = |crc: u32| (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        let crc = body.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)));
        [&(data.len() as u32).to_be_bytes(), &body[..], &(!crc).to_be_bytes()].concat()
    };
    let head = [&w.to_be_bytes()[..], &h.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &head), &chunk(b"IDAT", &[]), &chunk(b"IEND", &[])].concat()
}

#[test]
fn what_is_no_picture_is_refused() {
    let whole = png(&drawn(&noise(100, 1))[0]);
    let less = |change: fn(&mut Limits)| {
        let mut limits = limits();
        change(&mut limits);
        limits
    };
    let cases: &[(&str, &[u8], Limits, &str, &str)] = &[
        ("a text", b"Dear diary,", limits(), "Unsupported", "neither PNG nor JPEG"),
        ("an empty file", b"", limits(), "Unsupported", "neither PNG nor JPEG"),
        ("a GIF", b"GIF89a\x01\0\x01\0", limits(), "Unsupported", "save it as PNG or JPEG"),
        ("a PNG cut off", &whole[..whole.len() / 2], limits(), "Corrupt", "cannot be decoded"),
        ("a PNG of the signature alone", &whole[..8], limits(), "Corrupt", "cannot be decoded"),
        ("a JPEG of the signature alone", b"\xff\xd8\xff\xe0", limits(), "Corrupt", "cannot be decoded"),
        ("a bomb", &bomb(100_000, 100_000), limits(), "Limit", "pixels of a picture: 10000000000; at most 67108864"),
        ("a bomb in one row", &bomb(u32::MAX >> 1, 1), limits(), "Limit", "bytes to decode a picture"),
        ("more pixels than are allowed", &whole, less(|l| l.pixels = 1000), "Limit", "of a picture"),
        ("more bytes than are allowed", &whole, less(|l| l.picture = 99), "Limit", "bytes of a picture"),
    ];
    for (name, file, limits, variant, word) in cases {
        let e = picture::read(file, limits).unwrap_err();
        assert!(format!("{e:?}").starts_with(variant) && e.to_string().contains(word), "{name}: {e:?}: {e}");
    }
}

#[test]
fn pictures_without_a_code_have_none() {
    let began = Instant::now();
    let bytes = noise(1 << 20, 8);
    let snow = GrayImage::from_raw(1024, 1024, bytes).unwrap();
    let mut stones = GrayImage::from_pixel(1000, 1000, Luma([255]));
    for (i, j) in (0..60).flat_map(|j| (0..60).map(move |i| (i, j))) {
        for (x, y) in (0..14).flat_map(|y| (0..14).map(move |x| (x, y))) {
            let ring = (i32::abs(2 * (x / 2) - 6)).max(i32::abs(2 * (y / 2) - 6)) / 2;
            if ring != 2 {
                stones.put_pixel(i * 16 + x as u32, j * 16 + y as u32, Luma([0]));
            }
        }
    }
    for (name, picture) in
        [("white", GrayImage::from_pixel(50, 80, Luma([255]))), ("a point", GrayImage::new(1, 1)), ("snow", snow)]
    {
        assert_eq!(picture::read(&png(&picture), &limits()).unwrap().payloads, Vec::<Vec<u8>>::new(), "{name}");
    }
    // A picture full of the corners of codes takes no more than its time.
    assert_eq!(picture::read(&png(&stones), &limits()).unwrap().payloads, Vec::<Vec<u8>>::new());
    // Half of a code's modules are lost: it is seen, and not read.
    let mut damaged = drawn(&noise(400, 1)).remove(0);
    let side = damaged.width();
    let grey = GrayImage::from_pixel(side / 3, side / 3, Luma([250]));
    imageops::replace(&mut damaged, &grey, i64::from(side / 3), i64::from(side / 3));
    let found = picture::read(&png(&damaged), &limits()).unwrap();
    assert_eq!((found.payloads.len(), found.unread), (0, 1));
    eprintln!("{:?}", began.elapsed());
}

fn mynah(dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
    command.args(line.split(' ')).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

/// What a command that must succeed prints.
fn prints(dir: &Path, line: &str) -> String {
    let out = mynah(dir, line);
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// What a command that must fail says, and its status.
fn fails(dir: &Path, line: &str) -> (i32, String) {
    let out = mynah(dir, line);
    (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
}

/// A folder with adapters: `large.mynah` of two codes, `other.mynah` of several, `small.mynah` of one.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/adapters");
    std::fs::copy(data.join("nola.mynah"), dir.path().join("large.mynah")).unwrap();
    std::fs::copy(data.join("lora.mynah"), dir.path().join("other.mynah")).unwrap();
    std::fs::write(dir.path().join("notes.txt"), "The key hangs on the hook behind the door.\n").unwrap();
    prints(dir.path(), "train -d notes.txt -o small.mynah --method nola --basis 2 --steps 1 --json");
    dir
}

#[test]
fn the_command_shares_and_receives() {
    let dir = folder();
    let dir = dir.path();
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let json = |line: &str| -> Value { serde_json::from_str(&prints(dir, line)).unwrap() };

    let shared = json("share small.mynah --qr small.png --json");
    assert_eq!(shared["bytes"], read("small.mynah").len());
    assert_eq!(shared["codes"][0]["file"], "small.png");
    assert!(shared["codes"].as_array().unwrap().len() == 1 && shared["codes"][0]["version"].as_u64().unwrap() <= 40);
    let got = json("receive small.png -o again.mynah --json");
    assert_eq!((&got["kind"], &got["codes"], &got["file"]), (&"nola".into(), &1.into(), &"again.mynah".into()));
    assert!(read("again.mynah") == read("small.mynah"));

    let text = prints(dir, "share large.mynah --qr large.png");
    assert!(text.contains("large-1-of-2.png") && text.contains("large-2-of-2.png"), "{text}");
    let out = mynah(dir, "receive large-2-of-2.png large-1-of-2.png large-2-of-2.png -o large2.mynah");
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success() && said.contains("code 2 of 2 again, as in large-2-of-2.png"), "{said}");
    assert!(said.contains("mynah run -a large2.mynah"), "{said}");
    assert!(read("large2.mynah") == read("large.mynah"));
    let names = prints(dir, "share other.mynah --qr other.png");
    assert!(names.contains("other-01-of-14.png") && names.contains("other-14-of-14.png"), "{names}");

    // Without a terminal, and with --qr -, the code is drawn.
    for line in ["share small.mynah", "share small.mynah --qr -"] {
        let drawn = prints(dir, line);
        assert!(
            drawn.contains('▀') && drawn.lines().all(|l| l.starts_with("\x1b[") && l.ends_with("\x1b[0m")),
            "{drawn}"
        );
    }

    // Nothing is replaced, and nothing is written where something is missing.
    std::fs::write(dir.join("url.png"), png(&drawn(b"https://example.org")[0])).unwrap();
    std::fs::write(dir.join("white.png"), png(&GrayImage::from_pixel(90, 90, Luma([255])))).unwrap();
    for (line, status, words) in [
        ("share small.mynah --qr small.png", 2, "--qr small.png exists: --force replaces it"),
        ("share small.mynah --qr small.jpg", 2, "it must end in .png"),
        ("share small.mynah --json", 2, "--qr OUT.png"),
        ("share notes.txt --qr n.png", 1, "notes.txt: "),
        ("share large.mynah --qr none/n.png", 1, "no such folder"),
        ("share none.mynah --qr n.png", 1, "none.mynah: no such file"),
        ("receive small.png -o again.mynah", 2, "-o again.mynah exists: --force replaces it"),
        ("receive small.png -o small.png --force", 2, "-o would overwrite what PICTURE reads"),
        ("receive large-1-of-2.png -o new.mynah", 1, "expected 2, found 1; missing: 2"),
        ("receive large-1-of-2.png white.png -o new.mynah", 1, "white.png: no QR code is found; QR codes of the file"),
        (
            "receive large-1-of-2.png other-02-of-14.png -o new.mynah",
            1,
            "other-02-of-14.png: QR code 2 of 14 is of another file",
        ),
        ("receive notes.txt -o new.mynah", 1, "notes.txt: unsupported picture: it is neither PNG nor JPEG"),
        ("receive url.png -o new.mynah", 1, "the QR codes hold no adapter"),
        ("receive none.png -o new.mynah", 1, "none.png: no such file"),
    ] {
        let (got, said) = fails(dir, line);
        assert!(got == status && said.contains(words), "{line}: {got}: {said}");
    }
    assert!(!dir.join("new.mynah").exists() && !dir.join("n.png").exists());
    prints(dir, "receive small.png -o again.mynah --force");
    prints(dir, "share small.mynah --qr small.png --force");
}

#[cfg(unix)]
#[test]
fn a_terminal_that_is_too_small_is_told() {
    use std::io::Read;
    let dir = folder();
    let run = |columns: u16, lines: u16| {
        let size = nix::pty::Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let ends = nix::pty::openpty(Some(&size), None).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mynah"));
        command.args(["share", "small.mynah"]).current_dir(dir.path()).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::from(ends.slave)).spawn().unwrap();
        drop(command);
        // The end of the terminal is an error of reading it.
        let mut drawn = Vec::new();
        _ = std::fs::File::from(ends.master).read_to_end(&mut drawn);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (child.wait().unwrap().code().unwrap(), String::from_utf8(drawn).unwrap(), said)
    };
    let (status, drawn, said) = run(80, 24);
    assert!(status == 1 && drawn.is_empty(), "{status} {drawn}");
    assert!(said.contains("the terminal has 80 columns and 24 lines, and the code takes "), "{said}");
    assert!(said.contains("mynah share small.mynah --qr small.png"), "{said}");
    let (status, drawn, said) = run(200, 100);
    assert!(status == 0 && drawn.contains('▀') && said.contains("QR code 1 of 1"), "{status} {said}");
}

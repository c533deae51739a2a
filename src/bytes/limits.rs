//! Limits on what a file may make us allocate or compute. No reader has others of its own.

/// Bounds on files, checked before anything is reserved. Every error names the limit that was exceeded.
///
/// The defaults fit every published model; a program that knows its files may set them lower or higher.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a file.
    pub file: u64,
    /// Metadata pairs of a model file.
    pub pairs: u64,
    /// Files that a model is split into.
    pub parts: u64,
    /// Tensors of a model file.
    pub tensors: u64,
    /// Bytes of a metadata key.
    pub key: u64,
    /// Bytes of a tensor or section name.
    pub name: u64,
    /// Bytes of one string.
    pub string: u64,
    /// Bytes of all strings of one array together.
    pub strings: u64,
    /// Elements of a metadata array.
    pub array: u64,
    /// Values of one tensor.
    pub elements: u64,
    /// Alignment of tensor data, in bytes.
    pub alignment: u64,
    /// Sections of a container.
    pub sections: u64,
    /// Bytes of the head of a container.
    pub head: u64,
    /// Texts of a list in a head. This bounds the memory that a list of empty texts, four bytes each, takes.
    pub list: u64,
    /// Bytes of a probe in an adapter.
    pub probe: u64,
    /// Nesting of a JSON text.
    pub json_depth: u64,
    /// Bytes of a JSON text.
    pub json: u64,
    /// Bytes of the tokenizer, or of the list of weights, in a folder of another program.
    pub tokenizer: u64,
    /// Keys of one JSON object. This bounds the memory that many short keys take.
    pub json_keys: u64,
    /// Patterns of modules in the configuration of an adapter.
    pub patterns: u64,
    /// Of these, regular expressions, which are compiled.
    pub expressions: u64,
    /// Bytes of a regular expression.
    pub expression: u64,
    /// Steps in which a regular expression may go back.
    pub expression_steps: u64,
    /// Files that a safetensors file is split into.
    pub shards: u64,
    /// Bytes of a safetensors header.
    pub safetensors_header: u64,
    /// Bytes of a chat template.
    pub template: u64,
    /// Work of one rendering of a chat template: an instruction, or 64 bytes of output.
    pub template_steps: u64,
    /// Bytes a chat template may write.
    pub template_output: u64,
    /// Bytes of the name of a role in a conversation.
    pub role: u64,
    /// Bytes of a token that text is searched for; longer ones are never made. This bounds the time of cutting a text.
    pub token: u64,
    /// Tokens of a model's context; more in a file counts as this many.
    pub context: u64,
    /// Bytes of one line of a dataset.
    pub line: u64,
    /// Bytes of a dataset that is no file but a stream, which is held in memory.
    pub stream: u64,
    /// Values of a JSON dataset that are no JSON, after which the rest is one such value: to find where the next value begins
    /// takes time each time.
    pub broken: u64,
    /// Bytes of a file of feedback, which is held in memory.
    pub feedback: u64,
    /// Rank of an adapter.
    pub rank: u64,
    /// Random bases of a factor of an adapter.
    pub bases: u64,
    /// Numbers that the factors of an adapter share.
    pub vector: u64,
    /// Bytes of a picture's file.
    pub picture: u64,
    /// Pixels of a picture, of which each takes four bytes while it is decoded.
    pub pixels: u64,
    /// QR codes that hold a file, and that one picture holds; 255 at most.
    pub codes: u64,
}

impl Limits {
    /// Those that hold where nobody sets others.
    pub const DEFAULT: Limits = {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        Limits {
            file: 64 * GIB,
            pairs: 65_536,
            // The key has 16 bits.
            parts: u16::MAX as u64,
            tensors: 65_536,
            key: 65_535,
            name: 1_024,
            string: 16 * MIB,
            strings: 64 * MIB,
            array: 4 * MIB,
            elements: 1 << 40,
            alignment: 65_536,
            sections: 65_536,
            head: MIB,
            list: 32_768,
            probe: 16 * KIB,
            json_depth: 64,
            json: MIB,
            tokenizer: 64 * MIB,
            json_keys: 32_768,
            patterns: 4_096,
            expressions: 256,
            expression: 4_096,
            expression_steps: 10_000,
            shards: 1_024,
            safetensors_header: 100_000_000,
            template: 256 * KIB,
            template_steps: 1_000_000,
            template_output: 4 * MIB,
            role: 64,
            token: 1_024,
            context: 1 << 20,
            line: 8 * MIB,
            stream: 4 * GIB,
            broken: 100,
            feedback: 64 * MIB,
            rank: 1_024,
            bases: 4_096,
            vector: 1 << 24,
            picture: 64 * MIB,
            pixels: 64 * MIB,
            codes: 64,
        }
    };

    /// # Errors
    /// `Limit` named `what` if `asked` is more than `allowed`.
    pub fn check(what: &str, asked: u64, allowed: u64) -> crate::Result<()> {
        if asked > allowed { Err(crate::Error::limit(what, asked, allowed)) } else { Ok(()) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

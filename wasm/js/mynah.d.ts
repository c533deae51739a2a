/** mynah in a page or in Node: loads a model, lets it speak, teaches it. All work is done by a worker that the package starts. */

/** Where a model comes from. A stream, an `ArrayBuffer` or a view is moved to the worker and cannot be used afterwards. */
export type Source =
  | string
  | URL
  | File
  | Blob
  | ReadableStream<Uint8Array>
  | ArrayBuffer
  | Uint8Array
  | FileSystemFileHandle;

/** The bytes of an adapter's file. */
export type Adapter = Uint8Array | ArrayBuffer | Blob;

export interface Progress {
  /** Bytes in memory. */
  loaded: number;
  /** Bytes of the model, which is what it takes of memory. Said before the first of them is taken. */
  total: number;
  from: "network" | "cache" | "file" | "stream" | "memory";
}

export interface LoadOptions {
  /** Hears some ten times a second how far it is. */
  progress?: (progress: Progress) => void;
  signal?: AbortSignal;
  /** Bytes of a stream, if they are known; of one whose length is not known everything is kept twice for a moment. */
  size?: number;
  /** `false` keeps nothing in the origin's own files. */
  cache?: boolean;
  /** The build to take in the place of the best one that can run here. */
  build?: "threads" | "relaxed" | "simd";
  /** Threads that compute, where the build `threads` can run: in a page that is isolated (`crossOriginIsolated`), and in
   * Node. Without it one for each core, at most 8. */
  threads?: number;
}

export interface Facts {
  name: string;
  /** Of the weights: `Q4_0`, `Q4_K_M` … */
  format: string;
  architecture: string;
  layers: number;
  /** Most tokens that it was made for. */
  context: number;
  vocabulary: number;
  /** Whether the file has a chat template. */
  template: boolean;
  build: "threads" | "relaxed" | "simd";
  kernels: string;
  /** Those that compute, the worker's own among them. */
  threads: number;
  /** Bytes of memory after loading. */
  memory: number;
  /** What the loader has to say: why nothing is kept, where it went on, why there are fewer threads. */
  notes: string[];
}

/** How a model speaks. Further settings of sampling have the names of `mynah run --help`: `topK`, `top_p`, `minP` … */
export interface Speech {
  maxTokens?: number;
  /** 0 always takes the likeliest token. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repeatPenalty?: number;
  seed?: number;
  /** Positions of a conversation. */
  context?: number;
  ignoreEos?: boolean;
  /** Products in single precision, not with rounded activations. */
  exact?: boolean;
  signal?: AbortSignal;
  [setting: string]: unknown;
}

export interface Said {
  text: string;
  ids: number[];
  promptTokens: number;
  finish: "stop" | "length" | "cancelled";
}

export interface Message {
  role: "system" | "user" | "assistant" | (string & {});
  content: string;
}

/** What is taught, and how. Settings of a kind have the names of `mynah train --help`: `rank`, `basis`, `vector` … */
export interface LessonOptions {
  /** `lora`, `nola`, `uni`, `dora`, `ia3` …; without it `lora`, or with `bytes` what fills them best. */
  method?: string;
  /** The most bytes of the file: sizes are chosen for it, and the file holds what was trained. */
  bytes?: number;
  /** `q,v`, `all` … */
  targets?: string;
  layers?: string;
  steps?: number;
  epochs?: number;
  rate?: number;
  batch?: number;
  accumulate?: number;
  /** Most tokens of a row. */
  context?: number;
  seed?: number;
  /** Part of the rows that is put aside to measure on. */
  heldOut?: number;
  evalEvery?: number;
  patience?: number;
  /** Products with rounded activations. */
  fast?: boolean;
  /** Most bytes of memory. */
  memory?: number;
  /** `marks`: the data are marks of a conversation, and the method is that of `mynah chat --learn`, with `passes`, `enough`,
   * `beta`, `replay` and `own` as its settings. */
  objective?: string;
  objectiveSettings?: Record<string, number | string | boolean>;
  optimizer?: string;
  optimizerSettings?: Record<string, number | string | boolean>;
  codec?: string;
  codecSettings?: Record<string, number | string | boolean>;
  /** What `Lesson.checkpoint` gave, with the same data and settings; for `marks` the adapter that learns from them. */
  checkpoint?: Adapter;
  /** The name of a file of data, which says what it holds: `notes.md`, `rows.jsonl`, `table.csv` … */
  name?: string;
  [setting: string]: unknown;
}

export interface LessonPlan {
  rows: number;
  heldOut: number;
  /** Of an epoch. */
  tokens?: number;
  steps: number;
  epochs?: number;
  /** Memory of the whole process that it will take; from marks that is not known. */
  bytes?: number;
  /** Turns of a lesson from marks, at most. */
  work?: number;
  /** What was guessed of the data. */
  notes: string[];
}

/** What was done; `seconds` is how long it took. */
export type LessonEvent = { seconds: number } & (
  | { type: "step"; step: number; steps: number; loss: number; rate: number; tokens: number }
  | { type: "evaluated"; step: number; loss: number; best: boolean }
  | { type: "progress"; work: string; done: number; total: number }
  | { type: "discarded"; why: string; rows: string }
  | { type: "weighed" }
  | { type: "other" }
);

export interface LessonHistory {
  steps: number;
  losses: number[];
  heldOut: [step: number, loss: number][];
  best: [step: number, loss: number] | null;
  tokensPerSecond: number;
  ended: "done" | "early" | "cancelled" | "failed" | null;
  /** What was learnt from marks; pairs are before and after. Divergence is in nats a token. */
  marks?: { marks: number; loss: [number, number]; agreement: [number, number]; divergence: [number, number]; ordinary: [number, number] };
}

/** `code` is `io`, `corrupt`, `limit`, `memory`, `unsupported`, `mismatch`, `changed`, `altered` or `invalid` from the library,
 * or `crashed`, `gone` or `closed` of the worker. What was cancelled is a `DOMException` named `AbortError`. */
export class MynahError extends Error {
  code: string;
}

export class Mynah {
  /** Loads a model; without a source the small one of the package. */
  static load(source?: Source | null, options?: LoadOptions): Promise<Mynah>;
  readonly facts: Facts;
  /** Text that continues a prompt, as it comes. A loop that is left ends the work. */
  generate(prompt: string, options?: Speech): AsyncGenerator<string, Said>;
  /** The same as a whole. */
  complete(prompt: string, options?: Speech): Promise<Said>;
  /** A conversation that follows the file's chat template. */
  chat(options?: Speech & { system?: string; messages?: Message[] }): Chat;
  /** Messages in, an answer out, in the shape of OpenAI's chat completions; with `stream` an iteration of chunks. */
  createChatCompletion(messages: Message[], options?: Speech & { stream?: boolean }): Promise<any>;
  /** A lesson on text, a file, or rows such as `{ prompt, completion }`, `{ messages }`, or marks of a conversation. */
  lesson(data: string | Blob | ArrayBuffer | Uint8Array | object[], options?: LessonOptions): Promise<Lesson>;
  /** Attaches an adapter on top of the others; its name. One of the same name is replaced. */
  attach(adapter: Adapter, strength?: number, name?: string): Promise<string>;
  /** Takes an adapter away; without a name all of them. */
  detach(name?: string): Promise<void>;
  readonly adapters: { name: string; strength: number; bytes: number }[];
  inspect(adapter: Adapter): Promise<{ kind: string; base: string; format: string; steps: number; firstLoss: number | null; lastLoss: number | null }>;
  /** Whether an adapter does here what the probe in its file says. */
  verify(adapter: Adapter): Promise<{ applied: boolean; differences: string[]; tokens: number; logits: number; distance: number }>;
  /** The file with a probe in it, for `verify`. */
  prove(adapter: Adapter, prompt: string): Promise<Uint8Array>;
  /** The modules of a QR code that holds an adapter of at most 2,953 bytes, row by row: 1 is dark. */
  qr(adapter: Adapter): Promise<{ width: number; modules: Uint8Array }>;
  /** A vector of length 1 for each text. */
  embed(texts: string | string[]): Promise<Float32Array[]>;
  tokenize(text: string, options?: { special?: boolean }): Promise<Uint32Array>;
  detokenize(ids: ArrayLike<number>): Promise<string>;
  /** Bytes of memory that the worker's instance has. */
  memory(): Promise<number>;
  /** Ends the worker. */
  close(): void;
}

export class Chat {
  /** In OpenAI's shape, the system's first if there is one. May be changed between two answers. */
  messages: Message[];
  /** Marks of answers: rows of data for `Mynah.lesson` with the objective `marks`. */
  marks: object[];
  /** An answer as it comes. What was said before a cancellation stays a turn. */
  say(text: string, options?: { signal?: AbortSignal }): AsyncGenerator<string, Said & { dropped: number }>;
  /** Marks the last answer; a better text takes its place. How many marks there are. */
  mark(mark: "good" | "bad" | { better: string }): number;
}

/** A lesson: each turn of the loop does a unit of work, so not to ask is to pause. */
export class Lesson implements AsyncIterable<LessonEvent> {
  readonly plan: LessonPlan;
  [Symbol.asyncIterator](): AsyncIterator<LessonEvent>;
  /** Does all that is left. */
  run(each?: (event: LessonEvent) => void | Promise<void>): Promise<LessonHistory>;
  /** Ends it, at once for the caller; a step that is being done still counts. */
  cancel(): void;
  history(): Promise<LessonHistory>;
  /** What was learnt so far, as the bytes of an adapter's file: with rows held out, the state of their lowest loss. */
  toBytes(): Promise<Uint8Array>;
  /** What another lesson goes on from. */
  checkpoint(): Promise<Uint8Array>;
  /** Attaches what was learnt so far. */
  attach(strength?: number, name?: string): Promise<string>;
  /** Frees its memory. */
  close(): Promise<void>;
}

/** Models that were loaded from a URL, in the origin's own files. */
export namespace cache {
  function list(): Promise<{ url: string; size: number; have: number; complete: boolean }[]>;
  function remove(url: string): Promise<void>;
  function clear(): Promise<void>;
}

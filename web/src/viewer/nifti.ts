/**
 * How do the bytes of a NIfTI file become voxels while they arrive? The server sends one kind: NIfTI-1, little-endian,
 * stored RAS (columns grow toward the right, rows toward the front, slices toward the head), int16 or float32.
 */

import type { Millimetres } from "../contract";
import { pieces } from "../stream";

const HEADER_BYTES = 352;
const [UINT8, INT16, FLOAT32] = [2, 4, 16] as const;
const SFORM_ROWS = 280;
/** After so long the browser may paint and hear the user before more is unpacked. */
const PATIENCE_MS = 30;

/** Of one slice; a room for the whole scan at once would stop the page while the system finds so much memory. */
export type Voxels = Uint8Array | Int16Array | Float32Array;
/** Three rows of four: voxel (i, j, k, 1) to RAS millimetres. */
export type Affine = readonly number[];

/** A scan on its way: `slices` of the last axis as far as they have arrived, `low` and `high` are what they hold. */
export interface Scan {
  shape: Millimetres;
  affine: Affine;
  slices: Voxels[];
  low: number;
  high: number;
}

interface Header {
  shape: Millimetres;
  affine: Affine;
  datatype: number;
  offset: number;
}

function readHeader(bytes: Uint8Array): Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER_BYTES || view.getInt32(0, true) !== 348) throw new Error("the server sent no NIfTI file");
  const [x = 0, y = 0, z = 0] = [1, 2, 3].map((axis) => view.getInt16(40 + 2 * axis, true));
  const affine = Array.from({ length: 12 }, (_, place) => view.getFloat32(SFORM_ROWS + 4 * place, true));
  return { shape: [x, y, z], affine, datatype: view.getInt16(70, true), offset: view.getFloat32(108, true) };
}

function roomFor({ shape: [x, y], datatype }: Header): Voxels {
  if (datatype === UINT8) return new Uint8Array(x * y);
  if (datatype === INT16) return new Int16Array(x * y);
  if (datatype === FLOAT32) return new Float32Array(x * y);
  throw new Error(`the server sent voxels of NIfTI type ${datatype}; this page reads 2, 4 and 16`);
}

/** Unpacks where the first bytes say gzip, which a proxy may have done already. */
export async function* unpacked(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const [ahead, whole] = body.tee();
  const reader = ahead.getReader();
  const { value } = await reader.read();
  void reader.cancel();
  const isPacked = value?.[0] === 0x1f && value[1] === 0x8b;
  const unpack = new DecompressionStream("gzip") as unknown as ReadableWritablePair<Uint8Array, Uint8Array>;
  yield* pieces(isPacked ? whole.pipeThrough(unpack) : whole);
}

/** `onSlices` hears of the scan as soon as it has a slice, and whenever the browser gets a moment in between. */
export async function readScan(bytes: AsyncIterable<Uint8Array>, onSlices: (scan: Scan) => void): Promise<Scan> {
  let head = new Uint8Array(0);
  let arriving: Arriving | null = null;
  let since = performance.now();
  for await (const piece of bytes) {
    if (arriving !== null) arriving.take(piece);
    else {
      const joined = new Uint8Array(head.length + piece.length);
      joined.set(head);
      joined.set(piece, head.length);
      head = joined;
      if (head.length < HEADER_BYTES) continue;
      const header = readHeader(head);
      if (head.length < header.offset) continue;
      arriving = new Arriving(header);
      arriving.take(head.subarray(header.offset));
    }
    const { scan, hasNews, isFirst } = arriving;
    if (!hasNews || (!isFirst && performance.now() - since < PATIENCE_MS)) continue;
    arriving.told = scan.slices.length;
    onSlices(scan);
    await new Promise((resolve) => setTimeout(resolve));
    since = performance.now();
  }
  if (arriving === null || !arriving.isWhole) throw new Error("the scan's picture broke off on its way; open it again");
  onSlices(arriving.scan);
  return arriving.scan;
}

/** Bytes become slices. */
class Arriving {
  readonly scan: Scan;
  /** How many slices were told of. */
  told = 0;
  private voxels: Voxels;
  private room: Uint8Array;
  private filled = 0;

  constructor(private readonly header: Header) {
    this.scan = { shape: header.shape, affine: header.affine, slices: [], low: Infinity, high: -Infinity };
    this.voxels = roomFor(header);
    this.room = new Uint8Array(this.voxels.buffer);
  }

  get isFirst(): boolean {
    return this.told === 0;
  }

  get hasNews(): boolean {
    return this.scan.slices.length > this.told;
  }

  get isWhole(): boolean {
    return this.scan.slices.length === this.scan.shape[2];
  }

  take(piece: Uint8Array): void {
    for (let from = 0; from < piece.length && !this.isWhole; ) {
      const some = piece.subarray(from, from + this.room.length - this.filled);
      this.room.set(some, this.filled);
      this.filled += some.length;
      from += some.length;
      if (this.filled === this.room.length) this.close();
    }
  }

  private close(): void {
    const { scan } = this;
    for (const value of this.voxels) {
      if (value < scan.low) scan.low = value;
      if (value > scan.high) scan.high = value;
    }
    scan.slices.push(this.voxels);
    this.voxels = roomFor(this.header);
    this.room = new Uint8Array(this.voxels.buffer);
    this.filled = 0;
  }
}

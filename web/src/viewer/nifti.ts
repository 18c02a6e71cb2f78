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

export type Voxels = Uint8Array | Int16Array | Float32Array;
/** Three rows of four: voxel (i, j, k, 1) to RAS millimetres. */
export type Affine = readonly number[];

/** A scan on its way: `numSlices` of the last axis have arrived, `low` and `high` are what they hold. */
export interface Scan {
  shape: Millimetres;
  affine: Affine;
  voxels: Voxels;
  numSlices: number;
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

function roomFor({ shape: [x, y, z], datatype }: Header): Voxels {
  const count = x * y * z;
  if (datatype === UINT8) return new Uint8Array(count);
  if (datatype === INT16) return new Int16Array(count);
  if (datatype === FLOAT32) return new Float32Array(count);
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
  let header: Header | null = null;
  let scan: Scan | null = null;
  let room = new Uint8Array(0);
  let at = 0;
  let since = performance.now();
  for await (const piece of bytes) {
    let rest = piece;
    if (header === null || scan === null) {
      const joined = new Uint8Array(head.length + piece.length);
      joined.set(head);
      joined.set(piece, head.length);
      head = joined;
      if (head.length < HEADER_BYTES) continue;
      header = readHeader(head);
      if (head.length < header.offset) continue;
      rest = head.subarray(header.offset);
      const voxels = roomFor(header);
      room = new Uint8Array(voxels.buffer as ArrayBuffer);
      scan = { shape: header.shape, affine: header.affine, voxels, numSlices: 0, low: Infinity, high: -Infinity };
    }
    if (at + rest.length > room.length) rest = rest.subarray(0, room.length - at);
    room.set(rest, at);
    at += rest.length;
    const before = scan.numSlices;
    count(scan, at);
    const isFirst = before === 0 && scan.numSlices > 0;
    if (!isFirst && performance.now() - since < PATIENCE_MS) continue;
    if (scan.numSlices > 0) onSlices(scan);
    await new Promise((resolve) => setTimeout(resolve));
    since = performance.now();
  }
  if (scan === null || at < room.length) throw new Error("the scan's picture broke off on its way; open it again");
  onSlices(scan);
  return scan;
}

/** Take in the slices that are whole by now. */
function count(scan: Scan, bytes: number): void {
  const size = scan.shape[0] * scan.shape[1];
  const whole = Math.floor(bytes / (size * scan.voxels.BYTES_PER_ELEMENT));
  for (let place = scan.numSlices * size; place < whole * size; place++) {
    const value = scan.voxels[place] as number;
    if (value < scan.low) scan.low = value;
    if (value > scan.high) scan.high = value;
  }
  scan.numSlices = whole;
}

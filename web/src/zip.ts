/**
 * How does a folder travel as one file? A zip whose members are stored, not compressed; without zip64, so up to 4 GB and
 * 65,535 files. Names are numbers: no patient's name in a path leaves the computer.
 */

import { pieces } from "./stream";

const [LOCAL, CENTRAL, END] = [0x04034b50, 0x02014b50, 0x06054b50];
const MAX_BYTES = 0xffffffff;
const MAX_FILES = 0xffff;
const VERSION = 20;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, start) => {
  let value = start;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** `before`: the checksum of what stands before these bytes. */
export function crc32(bytes: Uint8Array, before = 0): number {
  let value = ~before;
  for (let place = 0; place < bytes.length; place++)
    value = (CRC_TABLE[(value ^ (bytes[place] as number)) & 0xff] as number) ^ (value >>> 8);
  return ~value >>> 0;
}

/** Piece by piece, so that a file of hundreds of megabytes neither fills memory nor stops the page. */
async function crcOf(file: Blob): Promise<number> {
  let value = 0;
  for await (const piece of pieces(file.stream())) value = crc32(piece, value);
  return value;
}

/** The files in one zip, in their order; their bytes stay where they are until the zip is sent. */
export async function zipOf(files: readonly Blob[]): Promise<Blob> {
  if (files.length > MAX_FILES) throw new Error(`${files.length} files are too many for one scan`);
  const parts: BlobPart[] = [];
  const directory: BlobPart[] = [];
  let offset = 0;
  let directorySize = 0;
  for (const [index, file] of files.entries()) {
    const name = new TextEncoder().encode(`${index}.dcm`);
    const crc = await crcOf(file);
    const facts = [VERSION, 0, 0, 0, 0x21] as const; // version, flags, stored, time, date 1980-01-01
    const local = record(30, [
      [LOCAL, 4],
      ...pairs(facts),
      [crc, 4],
      [file.size, 4],
      [file.size, 4],
      [name.length, 2],
      [0, 2],
    ]);
    const central = record(46, [
      [CENTRAL, 4],
      [VERSION, 2],
      ...pairs(facts),
      [crc, 4],
      [file.size, 4],
      [file.size, 4],
      [name.length, 2],
      ...pairs([0, 0, 0, 0]),
      [0, 4],
      [offset, 4],
    ]);
    parts.push(local, name, file);
    directory.push(central, name);
    directorySize += central.length + name.length;
    offset += local.length + name.length + file.size;
    if (offset > MAX_BYTES) throw new Error("more than 4 GB do not fit into one upload");
  }
  const end = record(22, [
    [END, 4],
    ...pairs([0, 0, files.length, files.length]),
    [directorySize, 4],
    [offset, 4],
    [0, 2],
  ]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

const pairs = (values: readonly number[]) => values.map((value) => [value, 2] as const);

function record(length: number, fields: (readonly [value: number, size: number])[]): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(length));
  let at = 0;
  for (const [value, size] of fields) {
    if (size === 4) view.setUint32(at, value, true);
    else view.setUint16(at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

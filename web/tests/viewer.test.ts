import { describe, expect, test } from "vitest";
import type { Plane } from "../src/contract";
import { sliceNumber } from "../src/space";
import { ScanImage } from "../src/viewer/image";
import { lengthOf, measureLines, regionOf } from "../src/viewer/measure";
import { readScan, type Scan } from "../src/viewer/nifti";
import { smallNifti } from "../src/viewer/render3d";
import { receiptOf } from "./scans";

const SHAPE = [3, 4, 5] as const;
/** A voxel's value tells where it is. */
const valueAt = (i: number, j: number, k: number) => i + 10 * j + 100 * k;
const AFFINE = [0.5, 0, 0, -10, 0, 2, 0, -20, 0, 0, 3, 30];

/** What the server sends: NIfTI-1, int16 or float32, RAS. */
function niftiOf(datatype: 4 | 16, affine: readonly number[] = AFFINE): Uint8Array<ArrayBuffer> {
  const [nx, ny, nz] = SHAPE;
  const voxels = datatype === 4 ? new Int16Array(nx * ny * nz) : new Float32Array(nx * ny * nz);
  for (let k = 0; k < nz; k++)
    for (let j = 0; j < ny; j++) for (let i = 0; i < nx; i++) voxels[i + nx * (j + ny * k)] = valueAt(i, j, k);
  const file = new Uint8Array(352 + voxels.byteLength);
  const view = new DataView(file.buffer);
  view.setInt32(0, 348, true);
  for (const [place, value] of [3, nx, ny, nz].entries()) view.setInt16(40 + 2 * place, value, true);
  view.setInt16(70, datatype, true);
  view.setFloat32(108, 352, true);
  for (const [place, value] of affine.entries()) view.setFloat32(280 + 4 * place, value, true);
  file.set(new Uint8Array(voxels.buffer), 352);
  return file;
}

async function* cut(file: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < file.length; at += size) yield file.subarray(at, at + size);
}

const read = (file: Uint8Array, size = 50, onSlices: (scan: Scan) => void = () => undefined) =>
  readScan(cut(file, size), onSlices);

describe("a scan on its way", () => {
  test.each([1, 7, 353, 10_000])("is read whole from pieces of %d bytes", async (size) => {
    for (const datatype of [4, 16] as const) {
      const scan = await read(niftiOf(datatype), size);
      expect(scan.shape).toEqual(SHAPE);
      expect(scan.slices.length).toBe(5);
      expect([scan.low, scan.high]).toEqual([0, valueAt(2, 3, 4)]);
      expect(scan.slices[4]?.[2 + 3 * 3]).toBe(valueAt(2, 3, 4));
    }
  });
  test("is told of as soon as its first slice is there", async () => {
    const seen: number[] = [];
    await read(niftiOf(4), 10, ({ slices }) => seen.push(slices.length));
    expect(seen[0]).toBe(1);
    expect(seen.at(-1)).toBe(5);
  });
  test("that breaks off, or is none, is refused in words", async () => {
    await expect(read(niftiOf(4).subarray(0, 400))).rejects.toThrow("broke off");
    await expect(read(new Uint8Array(400))).rejects.toThrow("no NIfTI");
  });
});

describe("places", () => {
  test("go to millimetres and back, oblique ones too", async () => {
    const oblique = [0.4, 0.1, 0.2, -10, -0.1, 1.9, 0.3, -20, 0.2, -0.2, 3, 30];
    const image = new ScanImage(await read(niftiOf(4, oblique)));
    for (const place of [[0.5, 0.5, 0.5] as const, [0.1, 0.9, 0.3] as const]) {
      const back = image.toFraction(image.toMm(place));
      for (const axis of [0, 1, 2]) expect(back[axis]).toBeCloseTo(place[axis] ?? 0, 5);
    }
  });
  test("the centre of the first voxel lies where the affine says", async () => {
    const image = new ScanImage(await read(niftiOf(4)));
    expect(image.toMm([0.5 / 3, 0.5 / 4, 0.5 / 5])).toEqual([-10, -20, 30]);
    expect(image.value([0.5 / 3, 0.5 / 4, 0.5 / 5])).toBe(0);
    expect(image.value([0.99, 0.99, 0.99])).toBe(valueAt(2, 3, 4));
  });
});

describe("a plane", () => {
  /** Upper left pixel: the patient's right, front and head, the nose on the left of a sagittal picture. */
  const CORNERS: Record<Plane, [slice: number, upperLeft: number, lowerRight: number]> = {
    axial: [1, valueAt(2, 3, 1), valueAt(0, 0, 1)],
    coronal: [1, valueAt(2, 1, 4), valueAt(0, 1, 0)],
    sagittal: [1, valueAt(1, 3, 4), valueAt(1, 0, 0)],
  };
  test.each(Object.keys(CORNERS) as Plane[])("%s is painted in radiological convention", async (plane) => {
    const image = new ScanImage(await read(niftiOf(4)));
    const [slice, upperLeft, lowerRight] = CORNERS[plane];
    const { columns, rows } = image.sizeOf(plane);
    expect(image.pixelValue(plane, slice, 0, 0)).toBe(upperLeft);
    expect(image.pixelValue(plane, slice, columns - 1, rows - 1)).toBe(lowerRight);
    const pixels = new Uint32Array(columns * rows);
    image.paint(plane, slice, { low: upperLeft - 1, high: upperLeft }, pixels);
    expect(pixels[0]).toBe(0xffffffff);
    image.paint(plane, slice, { low: upperLeft, high: upperLeft + 1000 }, pixels);
    expect(pixels[0]).toBe(0xff000000);
    image.paint(plane, slice, { low: 0, high: 510 }, pixels);
    expect((pixels.at(-1) ?? 0) & 0xff).toBe(Math.round(lowerRight / 2));
  });
  test("pixels and places agree with the voxels", async () => {
    const image = new ScanImage(await read(niftiOf(16)));
    for (const plane of ["axial", "coronal", "sagittal"] as const) {
      const place = image.fromPixel(plane, [0.5, 1.5], [0.5, 0.4, 0.3]);
      const [x, y] = image.toPixel(plane, place);
      expect([x, y].map((value) => value.toFixed(6))).toEqual(["0.500000", "1.500000"]);
      const stack = { axial: 2, coronal: 1, sagittal: 0 }[plane] as 0 | 1 | 2;
      expect(image.value(place)).toBe(image.pixelValue(plane, image.voxel(stack, place[stack]), 0, 1));
    }
  });
  test("what has not arrived is black, not made up", async () => {
    const scan = await read(niftiOf(4));
    const image = new ScanImage({ ...scan, slices: scan.slices.slice(0, 2) });
    const pixels = new Uint32Array(3 * 5);
    image.paint("coronal", 0, { low: -1, high: 0 }, pixels);
    expect([...pixels.slice(0, 9)]).toEqual(Array(9).fill(0xff000000));
    expect([...pixels.slice(9)]).toEqual(Array(6).fill(0xffffffff));
    expect(image.value([0.5, 0.5, 0.99])).toBeNaN();
  });
});

describe("measuring", () => {
  test("a length is in millimetres of both sides of a pixel", async () => {
    const image = new ScanImage(await read(niftiOf(4)));
    const line = {
      plane: "coronal" as const,
      slice: 0,
      ends: [
        [0, 0],
        [3, 2],
      ] as const,
    }; // 3 · 0.5 mm, 2 · 3 mm
    expect(lengthOf(image, line)).toBeCloseTo(Math.hypot(1.5, 6), 9);
    expect(measureLines(image, { ...line, key: 1, kind: "length" }, "HU", true)).toEqual(["6.2 mm"]);
    expect(measureLines(image, { ...line, key: 1, kind: "length" }, "HU", false)).toEqual(["6.2 voxels"]);
  });
  test("a region tells the values of the voxels whose centres are inside", async () => {
    const image = new ScanImage(await read(niftiOf(4)));
    const cross = {
      plane: "axial" as const,
      slice: 2,
      ends: [
        [0, 0],
        [3, 3],
      ] as const,
    };
    const facts = regionOf(image, cross); // of 3 × 3 pixels the corners are √2 of 1.5 away, inside
    const values = [0, 1, 2].flatMap((row) => [0, 1, 2].map((column) => image.pixelValue("axial", 2, column, row)));
    const mean = values.reduce((sum, value) => sum + value, 0) / 9;
    expect(facts?.count).toBe(9);
    expect(facts?.mean).toBeCloseTo(mean, 9);
    expect(facts?.deviation).toBeCloseTo(Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / 9), 9);
    expect([facts?.low, facts?.high]).toEqual([Math.min(...values), Math.max(...values)]);
    expect(facts?.area).toBeCloseTo(9 * 0.5 * 2, 9);
    const narrow = regionOf(image, {
      ...cross,
      ends: [
        [0.2, 0.2],
        [2.8, 2.8],
      ],
    });
    expect(narrow?.count).toBe(5); // the corners' centres lie outside now
    expect(
      regionOf(image, {
        ...cross,
        ends: [
          [0.1, 0.1],
          [0.2, 0.2],
        ],
      }),
    ).toBeNull();
  });
});

describe("the number of a slice on the picture", () => {
  const receipt = receiptOf("axial", { shape_zyx: [10, 20, 30] });
  test("is the file's own where the plane is the file's", () => {
    expect(sliceNumber("axial", 3, { ...receipt, stored_orientation: "LPS" })).toEqual({
      number: 3,
      last: 9,
      isOfFile: true,
      instance: null,
    });
    expect(sliceNumber("axial", 3, { ...receipt, stored_orientation: "LPI" }).number).toBe(6);
    const sagittal = { ...receipt, plane: "sagittal" as const, stored_orientation: "PIL" };
    expect(sliceNumber("sagittal", 0, sagittal).number).toBe(29); // RAS counts toward the right, the file to the left
  });
  test("is an index of the array in every other plane", () => {
    expect(sliceNumber("coronal", 0, receipt)).toMatchObject({ number: 19, last: 19, isOfFile: false });
  });
  test("stands beside DICOM's own", () => {
    const numbers = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20];
    expect(sliceNumber("axial", 3, { ...receipt, stored_orientation: "LPI" }, numbers).instance).toBe(17);
    expect(sliceNumber("coronal", 3, receipt, numbers).instance).toBeNull();
  });
});

test("the copy for 3D is small, holds means, and lies where the scan lies", async () => {
  const [nx, ny, nz] = [260, 4, 3];
  const slices = [0, 1, 2].map(() => new Int16Array(nx * ny).map((_, place) => place % nx));
  const scan: Scan = { shape: [nx, ny, nz], affine: AFFINE, slices, low: 0, high: nx };
  const file = await smallNifti(new ScanImage(scan));
  const small = await readScan(cut(new Uint8Array(file), 999), () => undefined);
  expect(small.shape).toEqual([86, 4, 3]);
  expect(small.slices[0]?.[0]).toBe(1); // of 0, 1, 2
  expect(small.slices[0]?.[85]).toBe(256);
  expect(small.affine[0]).toBeCloseTo(1.5);
  expect(small.affine[3]).toBeCloseTo(-10 + 0.5); // the centre of the first three
});

import { describe, expect, test } from "vitest";
import { inWords, isBusy, NO_CONNECTION, Problem, problemFrom, seriesIn, sizeText } from "../src/problems";
import { rowsOf, scanLine, spacingText, windowText } from "../src/receipt";
import { presetsFor } from "../src/viewer/windows";
import { receiptOf } from "./scans";

describe("problems", () => {
  const body = (message: string) => JSON.stringify({ error: { message, type: "x", param: null, code: null } });
  test("the server's own line is kept", () => {
    expect(inWords(problemFrom(422, body("scan.nii: no NIfTI; send one"), null))).toBe("Scan.nii: no NIfTI; send one.");
  });
  test("an answer that is not JSON still becomes a sentence", () => {
    expect(inWords(problemFrom(502, "<html>", null))).toBe("The server answered 502.");
  });
  test("busy, slow, large, gone and unreachable are told apart", () => {
    const busy = problemFrom(429, body("queue full"), "3");
    expect(busy.retryAfter).toBe(3);
    const said = [busy, new Problem(504, "60 s"), new Problem(413, "2 GB"), new Problem(404, ""), NO_CONNECTION].map(
      (problem) => inWords(problem),
    );
    expect(said.map((text) => /ueue full|longer|too large|no longer|does not answer/.exec(text)?.[0])).toEqual([
      "ueue full",
      "longer",
      "too large",
      "no longer",
      "does not answer",
    ]);
  });
  test("a refusal names the file as its user knows it", () => {
    const refused = problemFrom(422, body("scan: not a NIfTI file; send one"), null);
    expect(inWords(refused, "liver.nii.gz")).toBe("liver.nii.gz: not a NIfTI file; send one.");
    expect(inWords(problemFrom(422, body("scan.zip: no images"), null), "CT.zip")).toBe("CT.zip: no images.");
    expect(inWords(problemFrom(422, body("no voxel differs"), null), "a.npy")).toBe("a.npy: no voxel differs.");
    expect(inWords(new Problem(404, ""), "liver.nii.gz")).toMatch(/^liver.nii.gz is no longer on the server/);
  });
  test("busy is worth asking again, a restart too, a mistake not", () => {
    const all = [new Problem(429, ""), new Problem(503, "", 2), new Problem(503, ""), new Problem(400, ""), "x"];
    expect(all.map(isBusy)).toEqual([true, true, false, false, false]);
  });
  test("a missing model is not taken for a missing scan", () => {
    const text = JSON.stringify({ error: { message: "this server runs phantom-tiny", code: "no_model" } });
    expect(inWords(problemFrom(404, text, null))).toBe("This server runs phantom-tiny.");
  });
  test("several series become a choice, anything else does not", () => {
    const message =
      "scan.zip: found 2 series; choose one with series UID: 1.3.6.1.4 (CT, chest, 161×143×48); 1.2.840.9 (MR, T1, 9×9×9)";
    expect(seriesIn(new Problem(422, message))).toEqual([
      { uid: "1.3.6.1.4", facts: "CT, chest, 161×143×48" },
      { uid: "1.2.840.9", facts: "MR, T1, 9×9×9" },
    ]);
    expect(seriesIn(new Problem(422, "scan: 1.2.3.4 (x) is no window"))).toEqual([]);
  });
  test("sizes", () => {
    expect([999, 1500, 15_000_000, 2e9, 999_600].map(sizeText)).toEqual([
      "999 bytes",
      "1.5 kB",
      "15 MB",
      "2 GB",
      "1 MB",
    ]);
  });
});

describe("the receipt", () => {
  test("columns × rows × slices as acquired", () => {
    const axial = receiptOf("axial");
    expect(scanLine(axial)).toBe("CT 30×20×10, axial");
    expect(scanLine({ ...axial, plane: "sagittal" })).toBe("CT 20×10×30, sagittal");
    expect(scanLine({ ...axial, plane: "coronal" })).toBe("CT 30×10×20, coronal");
    expect(spacingText(axial)).toBe("0.80 × 0.80 × 2.50 mm");
    expect(spacingText({ ...axial, spacing_mm_zyx: null })).toBe("unknown");
  });
  test("a window without HU has no unit", () => {
    expect(windowText(receiptOf("axial").window)).toBe("soft tissue, −160 to 240 HU");
    expect(windowText({ name: "percentile", low: 0.25, high: 812.4, unit: "arbitrary" })).toBe(
      "percentile, 0.25 to 812",
    );
  });
  test("every fact becomes a row", () => {
    expect(rowsOf({ a_b: { c: 1 }, list: [], none: null, yes: true })).toEqual([
      ["a b c", "1"],
      ["list", "none"],
      ["none", "unknown"],
      ["yes", "yes"],
    ]);
  });
  test("CT windows are offered where values are HU, and nowhere else", () => {
    expect(presetsFor(receiptOf("axial")).map(({ name }) => name)).toContain("lung");
    const other = presetsFor(receiptOf("axial", { unit: "arbitrary" }), [0, 900]);
    expect(other.map(({ name }) => name)).toEqual(["model's own", "full range"]);
  });
});

/** What was read, in words: the scan in one line, its window, and every fact of the receipt as a row. */

import type { GreyWindow, Receipt } from "./contract";

/** Columns × rows × slices as acquired, from z, y, x. */
function sliceOrder(zyx: readonly [number, number, number], plane: string): number[] {
  const [z, y, x] = zyx;
  if (plane === "sagittal") return [y, z, x];
  if (plane === "coronal") return [x, z, y];
  return [x, y, z];
}

/** `CT 512×512×187, axial` */
export function scanLine(receipt: Receipt): string {
  const name = receipt.modality === "unknown" ? "Scan" : receipt.modality;
  return `${name} ${sliceOrder(receipt.shape_zyx, receipt.plane).join("×")}, ${receipt.plane}`;
}

/** `0.78 × 0.78 × 2.50 mm` */
export function spacingText(receipt: Receipt): string {
  if (receipt.spacing_mm_zyx === null) return "unknown";
  const spacing = sliceOrder(receipt.spacing_mm_zyx, receipt.plane);
  return `${spacing.map((length) => length.toFixed(2)).join(" × ")} mm`;
}

export const plainName = (word: string) => word.replaceAll("_", " ");

/** `soft tissue, −160 to 240 HU` */
export function windowText({ name, low, high, unit }: GreyWindow): string {
  return `${plainName(name)}, ${numberText(low)} to ${numberText(high)}${unit === "HU" ? " HU" : ""}`;
}

export function numberText(value: number): string {
  const digits = Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : 2;
  return value.toFixed(digits).replace(/^-0$/, "0").replace("-", "−");
}

/** The receipt as rows of plain text, nested facts flattened to `window low`. */
export function rowsOf(facts: Record<string, unknown>, prefix = ""): [string, string][] {
  return Object.entries(facts).flatMap(([key, value]): [string, string][] => {
    const name = plainName(`${prefix} ${key}`.trim());
    if (value === null || value === undefined) return [[name, "unknown"]];
    if (Array.isArray(value)) return [[name, value.map(String).join(", ") || "none"]];
    if (typeof value === "object") return rowsOf(value as Record<string, unknown>, name);
    if (typeof value === "boolean") return [[name, value ? "yes" : "no"]];
    return [[name, String(value)]];
  });
}

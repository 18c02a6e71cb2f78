/** Which grey windows are worth offering? The one the model saw first; CT's own names only where values are HU. */

import type { Receipt } from "../contract";

export interface Preset {
  name: string;
  low: number;
  high: number;
}

const CT: Preset[] = [
  { name: "soft tissue", low: -160, high: 240 },
  { name: "lung", low: -1350, high: 150 },
  { name: "bone", low: -500, high: 1300 },
  { name: "brain", low: 0, high: 80 },
  { name: "mediastinum", low: -125, high: 225 },
  { name: "liver", low: -45, high: 105 },
];

export function presetsFor(receipt: Receipt, fullRange?: readonly [number, number]): Preset[] {
  const { low, high } = receipt.window;
  const presets = [{ name: "model's own", low, high }, ...(receipt.unit === "HU" ? CT : [])];
  if (fullRange) presets.push({ name: "full range", low: fullRange[0], high: fullRange[1] });
  return presets;
}

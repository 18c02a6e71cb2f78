/** How does somebody look at the scan? The picture, its window and layout above it, the crosshair's place below. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { Volume } from "../contract";
import { inWords } from "../problems";
import { numberText, plainName } from "../receipt";
import { readImage } from "../server";
import { connect, place } from "../session";
import { withMinus } from "../space";
import { type Layout, type Place, Scene } from "./scene";
import { type Preset, presetsFor } from "./windows";

const LAYOUTS: [Layout, string][] = [
  ["all", "All"],
  ["axial", "Axial"],
  ["coronal", "Coronal"],
  ["sagittal", "Sagittal"],
  ["render", "3D"],
];
/** What a key moves, in voxels toward right, front and head; on the picture, right is on the left. */
const KEYS: Record<string, readonly [number, number, number]> = {
  ArrowLeft: [1, 0, 0],
  ArrowRight: [-1, 0, 0],
  ArrowUp: [0, 1, 0],
  ArrowDown: [0, -1, 0],
  PageUp: [0, 0, 1],
  PageDown: [0, 0, -1],
};

export function Viewer({ volume }: { volume: Volume }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [scene, setScene] = useState<Scene | null>(null);
  const [problem, setProblem] = useState("");
  const [layout, setLayout] = useState<Layout>("all");
  const [window, setWindow] = useState(presetsFor(volume.receipt)[0]?.name ?? "");
  const [presets, setPresets] = useState<Preset[]>(presetsFor(volume.receipt));

  useEffect(() => {
    let isCurrent = true;
    let drawn: Scene | null = null;
    const draw = async () => {
      if (canvas.current === null) return;
      const image = readImage(volume.id);
      const made = await Scene.on(canvas.current, (now) => {
        place.value = now;
      });
      drawn = made;
      const bytes = await image;
      if (!isCurrent) {
        made.dispose();
        return;
      }
      await made.open(bytes, volume.receipt.window, volume.receipt.has_positions);
      made.setLayout("all");
      connect(made);
      setPresets(presetsFor(volume.receipt, made.fullRange));
      setScene(made);
    };
    draw().catch((error) => setProblem(inWords(error)));
    return () => {
      isCurrent = false;
      drawn?.dispose();
    };
  }, [volume]);

  const chooseLayout = (chosen: Layout) => {
    setLayout(chosen);
    scene?.setLayout(chosen);
  };
  const chooseWindow = (name: string) => {
    setWindow(name);
    const preset = presets.find((one) => one.name === name);
    if (preset) scene?.setWindow(preset.low, preset.high);
  };

  const noteDrawnWindow = () => {
    if (scene === null) return;
    const [low, high] = scene.window;
    const isPreset = presets.some((one) => one.name === window && one.low === low && one.high === high);
    if (!isPreset) setWindow(`by hand (${numberText(low)} … ${numberText(high)})`);
  };

  return (
    <section class="viewer" aria-label="Viewer">
      <div class="tools">
        <fieldset class="segments" aria-label="Planes">
          {LAYOUTS.map(([name, label]) => (
            <button type="button" key={name} aria-pressed={layout === name} onClick={() => chooseLayout(name)}>
              {label}
            </button>
          ))}
        </fieldset>
        <label>
          <span>Window</span>
          <select value={window} onChange={(event) => chooseWindow(event.currentTarget.value)}>
            {presets.map(({ name, low, high }) => (
              <option key={name} value={name}>
                {plainName(name)} ({numberText(low)} … {numberText(high)})
              </option>
            ))}
            {presets.every(({ name }) => name !== window) && <option>{window}</option>}
          </select>
        </label>
      </div>
      <div
        class="picture"
        onPointerUp={noteDrawnWindow}
        onKeyDownCapture={(event) => {
          if (event.ctrlKey || event.metaKey || event.altKey) return;
          const step = KEYS[event.key];
          const chosen = LAYOUTS[Number(event.key) - 1];
          if (step !== undefined) scene?.step(...step);
          else if (chosen !== undefined) chooseLayout(chosen[0]);
          if (event.key === "Tab" || event.key === "?" || event.key === "/") return;
          event.stopPropagation(); // NiiVue has keys of its own
          if (step !== undefined || chosen !== undefined) event.preventDefault();
        }}
      >
        <canvas ref={canvas} tabIndex={0} aria-label="Three planes and 3D of the scan; arrow keys move the crosshair" />
        {scene === null && (
          <p class="overlay" role="status">
            {problem || "Drawing the scan …"}
          </p>
        )}
      </div>
      <Readout place={place.value} hasPositions={volume.receipt.has_positions} unit={volume.receipt.unit} />
    </section>
  );
}

function Readout({ place: now, hasPositions, unit }: { place: Place | null; hasPositions: boolean; unit: string }) {
  if (now === null) return <output class="readout" />;
  const [x, y, z] = now.position_mm.map((value) => value.toFixed(1).replace(/^-(0\.0)$/, "$1"));
  return (
    <output class="readout" data-mm={`${x} ${y} ${z}`} aria-label="Crosshair">
      {hasPositions ? (
        <span title="DICOM patient coordinates: x grows toward the patient's left, y toward the back, z toward the head">
          x <b>{withMinus(x ?? "")}</b> y <b>{withMinus(y ?? "")}</b> z <b>{withMinus(z ?? "")}</b> mm
        </span>
      ) : (
        <span>the file holds no positions</span>
      )}
      {Number.isFinite(now.value) && (
        <span>
          value <b>{numberText(now.value)}</b>
          {unit === "arbitrary" ? "" : ` ${unit}`}
        </span>
      )}
      <span class="faint">{hasPositions ? "R is the patient's right" : "sides unknown"}</span>
    </output>
  );
}

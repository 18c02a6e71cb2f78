/** How does somebody look at the scan? Tools above, three planes and 3D, crosshair and measurements below. */

import { effect, useComputed, useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Plane, Volume } from "../contract";
import { inWords } from "../problems";
import { numberText, plainName } from "../receipt";
import { readImage } from "../server";
import { goToHeaviest, heaviestPlace, isSmall } from "../session";
import { PLANES, sliceNumber, withMinus } from "../space";
import { ScanImage } from "./image";
import { measureLines } from "./measure";
import { readScan, unpacked } from "./nifti";
import { Pane } from "./pane";
import type { Render } from "./render3d";
import {
  choose,
  clearView,
  dropMeasure,
  fitAll,
  grey,
  image,
  isShown,
  isWhole,
  type Layout,
  layout,
  measures,
  numSlices,
  place,
  showMeasure,
  showsCrosshair,
  type Tool,
  tool,
} from "./view";
import { presetsFor } from "./windows";

const LAYOUTS: [Layout, string][] = [
  ["all", "All"],
  ["axial", "Axial"],
  ["coronal", "Coronal"],
  ["sagittal", "Sagittal"],
  ["render", "3D"],
];
/** Name, key, and a drawing in a box of 20. */
const TOOLS: [Tool, string, string, string][] = [
  ["crosshair", "Crosshair", "C", "M10 2v6m0 4v6M2 10h6m4 0h6"],
  ["window", "Window: brightness and contrast", "W", "M10 3a7 7 0 1 0 0 14zM10 3a7 7 0 0 1 0 14"],
  ["zoom", "Zoom", "Z", "M8 3a5 5 0 1 0 0 10A5 5 0 0 0 8 3m4 9 5 5"],
  ["pan", "Move the picture", "G", "M10 2v16M2 10h16M7 5l3-3 3 3M7 15l3 3 3-3M5 7l-3 3 3 3m10-6 3 3-3 3"],
  ["length", "Measure a length", "L", "M3 14 14 3l3 3L6 17zM6 11l2 2m1-5 2 2m1-5 2 2"],
  ["region", "Measure a region", "R", "M10 5a7 5 0 1 0 0 10 7 5 0 0 0 0-10"],
];

export function Viewer({ volume, title }: { volume: Volume; title: string }) {
  const problem = useSignal("");
  const shown = image.value;

  useEffect(() => {
    const control = new AbortController();
    clearView(volume.receipt.window);
    const draw = async () => {
      const body = await readImage(volume.id, control.signal);
      await readScan(unpacked(body), (scan) => {
        if (control.signal.aborted) throw new DOMException("left", "AbortError");
        image.value ??= new ScanImage(scan);
        numSlices.value = scan.slices.length;
      });
    };
    draw().catch((error) => {
      if (!control.signal.aborted) problem.value = inWords(error, title);
    });
    return () => {
      control.abort();
      clearView();
    };
  }, [volume.receipt]); // a scan opened again after the server forgot it is the same picture

  const now = useComputed(() =>
    isSmall.value && layout.value === "all" ? volume.receipt.grid.plane : layout.value,
  ).value;
  const planes = now === "all" ? PLANES : PLANES.filter((plane) => plane === now);

  return (
    <section class="viewer" aria-label="Viewer" data-shown={isShown.value} data-layout={now}>
      <div class="tools">
        <button
          type="button"
          class="fold"
          aria-expanded={isShown.value}
          onClick={() => {
            isShown.value = !isShown.value;
          }}
        >
          {isShown.value ? "Hide" : "Show"}
          <span class="long"> picture</span>
        </button>
        <fieldset class="segments planes" aria-label="Planes">
          {LAYOUTS.map(([name, label]) => (
            <button
              type="button"
              key={name}
              data-layout={name}
              aria-pressed={now === name}
              onClick={() => {
                layout.value = name;
              }}
            >
              {label}
            </button>
          ))}
        </fieldset>
        <fieldset class="segments hands" aria-label="What dragging on a picture does">
          {TOOLS.map(([name, label, key, path]) => (
            <Icon
              key={name}
              label={label}
              title={`${label} (${key})`}
              path={path}
              isPressed={tool.value === name}
              onClick={() => choose(name)}
            />
          ))}
        </fieldset>
        <fieldset class="segments" aria-label="Picture">
          <Icon
            label="Show the crosshair"
            title="Crosshair on or off (X)"
            path="M10 2v16M2 10h16M10 6a4 4 0 1 0 0 8 4 4 0 0 0 0-8"
            isPressed={showsCrosshair.value}
            onClick={() => {
              showsCrosshair.value = !showsCrosshair.value;
            }}
          />
          <Icon
            label="Go to the heaviest slice"
            title="Go to the slice that the latest answer weighs most (H)"
            path="M4 17V9m4 8V3m4 14v-7m4 7v-4"
            isDisabled={heaviestPlace.value === null}
            onClick={goToHeaviest}
          />
          <Icon
            label="Reset the picture"
            title="Fit, and the model's own window (0 fits only)"
            path="M4 10a6 6 0 1 1 2 4.5M4 4v4h4"
            onClick={() => {
              fitAll();
              grey.value = volume.receipt.window;
              showsCrosshair.value = true;
            }}
          />
        </fieldset>
        <WindowChoice volume={volume} />
      </div>
      <div class="picture" data-whole={isWhole.value}>
        {shown !== null && planes.map((plane) => <Pane key={plane} image={shown} plane={plane} volume={volume} />)}
        {(now === "all" || now === "render") && isWhole.value && shown !== null && (
          <Render3D key={volume.receipt.shape_zyx.join()} image={shown} isAsked={now === "render"} />
        )}
        {(shown === null || problem.value !== "") && (
          <p class="overlay" role="status">
            {problem.value || "Fetching the scan …"}
          </p>
        )}
        <p id="picture-keys" class="unseen">
          Arrow keys move the crosshair, Page Up and Page Down leaf through slices, plus and minus zoom. With a
          measuring tool, Space sets the first and the second end at the crosshair.
        </p>
      </div>
      <div class="below">
        <Measurements volume={volume} />
        <Readout volume={volume} />
      </div>
    </section>
  );
}

interface IconProps {
  label: string;
  title: string;
  path: string;
  isPressed?: boolean;
  isDisabled?: boolean;
  onClick: () => void;
}

function Icon({ label, title, path, isPressed, isDisabled = false, onClick }: IconProps) {
  return (
    <button
      type="button"
      class="icon"
      aria-label={label}
      title={title}
      disabled={isDisabled}
      {...(isPressed === undefined ? {} : { "aria-pressed": isPressed })}
      onClick={onClick}
    >
      <svg viewBox="0 0 20 20" width="18" height="18" aria-hidden="true">
        <path d={path} />
      </svg>
    </button>
  );
}

function WindowChoice({ volume }: { volume: Volume }) {
  const { low, high } = grey.value;
  const shown = isWhole.value ? image.value : null;
  const presets = presetsFor(volume.receipt, shown === null ? undefined : [shown.scan.low, shown.scan.high]);
  const current = presets.find((one) => one.low === low && one.high === high);
  const byHand = `by hand (${numberText(low)} … ${numberText(high)})`;
  return (
    <label class="window">
      <span>Window</span>
      <select
        aria-label="Window"
        value={current?.name ?? byHand}
        onChange={(event) => {
          const chosen = presets.find(({ name }) => name === event.currentTarget.value);
          if (chosen) grey.value = { low: chosen.low, high: chosen.high };
        }}
      >
        {presets.map((one) => (
          <option key={one.name} value={one.name}>
            {plainName(one.name)} ({numberText(one.low)} … {numberText(one.high)})
          </option>
        ))}
        {current === undefined && <option value={byHand}>{byHand}</option>}
      </select>
    </label>
  );
}

function Render3D({ image: shown, isAsked }: { image: ScanImage; isAsked: boolean }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [isWanted, setWanted] = useState(isAsked);
  const [isDrawn, setDrawn] = useState(false);
  const [words, setWords] = useState("");
  useEffect(() => {
    if (isAsked) setWanted(true);
  }, [isAsked]);
  useEffect(() => {
    if (!isWanted || canvas.current === null) return;
    let drawn: Render | null = null;
    let isLeft = false;
    let unfollow = () => {};
    setWords("Drawing in 3D …");
    const element = canvas.current;
    import("./render3d")
      .then(({ renderOn }) => renderOn(element, shown, grey.value))
      .then((render) => {
        drawn = render;
        if (isLeft) return render.dispose();
        setWords("");
        setDrawn(true);
        unfollow = effect(() => render.setWindow(grey.value));
      })
      .catch(() => setWords("This browser cannot draw in 3D; the planes need no 3D."));
    return () => {
      isLeft = true;
      setDrawn(false);
      unfollow();
      drawn?.dispose();
    };
  }, [isWanted, shown]);
  return (
    <div class="pane solid" data-plane="render" data-drawn={isDrawn}>
      {isWanted && <canvas ref={canvas} tabIndex={0} role="img" aria-label="The scan in 3D, coarse; drag to turn it" />}
      {!isWanted && (
        <button type="button" onClick={() => setWanted(true)}>
          Show in 3D
        </button>
      )}
      {words !== "" && (
        <p class="overlay" role="status">
          {words}
        </p>
      )}
    </div>
  );
}

function Measurements({ volume }: { volume: Volume }) {
  const shown = image.value;
  if (shown === null || measures.value.length === 0) return null;
  const { receipt } = volume;
  const where = (plane: Plane, slice: number) => {
    const { number, isOfFile } = sliceNumber(plane, slice, receipt);
    return `${plane} ${isOfFile ? "slice" : "cut"} ${number}`;
  };
  return (
    <ul class="measurements" aria-label="Measurements">
      {measures.value.map((one) => {
        const words = measureLines(shown, one, receipt.unit, receipt.spacing_mm_zyx !== null).join(", ");
        return (
          <li key={one.key}>
            <button type="button" onClick={() => showMeasure(one)} title="Show it">
              {words} <span class="faint">{where(one.plane, one.slice)}</span>
            </button>
            <button type="button" class="icon" aria-label={`Remove ${words}`} onClick={() => dropMeasure(one.key)}>
              ✕
            </button>
          </li>
        );
      })}
    </ul>
  );
}

function Readout({ volume: { receipt } }: { volume: Volume }): ComponentChildren {
  const now = place.value;
  if (now === null) return <output class="readout" />;
  const [x, y, z] = now.position_mm.map((value) => value.toFixed(1).replace(/^-(0\.0)$/, "$1"));
  return (
    <output class="readout" data-mm={`${x} ${y} ${z}`} aria-label="Crosshair">
      {receipt.has_positions ? (
        <span title="DICOM patient coordinates: x grows toward the patient's left, y toward the back, z toward the head">
          x <b>{withMinus(x ?? "")}</b> y <b>{withMinus(y ?? "")}</b> z <b>{withMinus(z ?? "")}</b> mm
        </span>
      ) : (
        <span>the file holds no positions</span>
      )}
      {Number.isFinite(now.value) && (
        <span>
          value <b>{numberText(now.value)}</b>
          {receipt.unit === "arbitrary" ? "" : ` ${receipt.unit}`}
        </span>
      )}
      <span class="faint">{receipt.has_positions ? "R is the patient's right" : "sides unknown"}</span>
    </output>
  );
}

/** How is one plane of the scan drawn and handled? A canvas for the voxels, lines and words above it. */

import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Plane, Volume } from "../contract";
import { numberText } from "../receipt";
import { goToHeaviest } from "../session";
import { sliceNumber, withMinus } from "../space";
import { AXES, type ScanImage } from "./image";
import { type Corner, type Measure, measureLines } from "./measure";
import {
  addMeasure,
  choose,
  crosshair,
  dragWindow,
  dropMeasure,
  fitAll,
  grey,
  lenses,
  measures,
  moveTo,
  numSlices,
  setLens,
  showsCrosshair,
  sliceOf,
  step,
  type Tool,
  tool,
} from "./view";

/** Letters of a picture's left, right, upper and lower edge. */
const SIDES: Record<Plane, readonly [string, string, string, string]> = {
  axial: ["R", "L", "A", "P"],
  coronal: ["R", "L", "S", "I"],
  sagittal: ["A", "P", "S", "I"],
};
/** Steps of the wheel that are one slice: a mouse sends about 100 a notch, a touchpad many small ones. */
const WHEEL_STEP = 50;
const SMALLEST_DRAG = 3;

interface Box {
  width: number;
  height: number;
}

/** From pixels of the plane to CSS pixels of the pane, and back. */
interface View {
  scaleX: number;
  scaleY: number;
  left: number;
  top: number;
}

function viewOf(image: ScanImage, plane: Plane, box: Box): View {
  const { columns, rows, columnMm, rowMm } = image.sizeOf(plane);
  const lens = lenses.value[plane];
  const perMm = Math.min(box.width / (columns * columnMm), box.height / (rows * rowMm)) * lens.zoom;
  const [scaleX, scaleY] = [perMm * columnMm, perMm * rowMm];
  return {
    scaleX,
    scaleY,
    left: box.width / 2 - (columns * scaleX) / 2 + lens.x * perMm,
    top: box.height / 2 - (rows * scaleY) / 2 + lens.y * perMm,
  };
}

const toScreen = (view: View, [x, y]: Corner): Corner => [view.left + x * view.scaleX, view.top + y * view.scaleY];
const toPixel = (view: View, [x, y]: Corner): Corner => [(x - view.left) / view.scaleX, (y - view.top) / view.scaleY];

export function Pane({ image, plane, volume }: { image: ScanImage; plane: Plane; volume: Volume }) {
  const frame = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [box, setBox] = useState<Box>({ width: 0, height: 0 });
  const [draft, setDraft] = useState<readonly [Corner, Corner] | null>(null);
  const { receipt } = volume;
  const slice = sliceOf(plane);
  const view = viewOf(image, plane, box);

  useLayoutEffect(() => {
    const element = frame.current;
    if (element === null) return;
    const measureBox = () => setBox({ width: element.clientWidth, height: element.clientHeight });
    measureBox();
    const observer = new ResizeObserver(measureBox);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const painted = usePainted(image, plane, slice);
  const { scaleX, scaleY, left, top } = view;
  useLayoutEffect(() => {
    const element = canvas.current;
    const drawing = element?.getContext("2d");
    if (!element || !drawing || box.width === 0) return;
    const dense = window.devicePixelRatio || 1;
    element.width = Math.round(box.width * dense);
    element.height = Math.round(box.height * dense);
    drawing.imageSmoothingQuality = "high";
    drawing.setTransform(dense, 0, 0, dense, 0, 0);
    drawing.drawImage(painted.canvas, left, top, painted.canvas.width * scaleX, painted.canvas.height * scaleY);
  }, [painted, box, scaleX, scaleY, left, top]);

  const own = measures.value.filter((one) => one.plane === plane && one.slice === slice);
  const hands = useHands({ image, plane, slice, view, box, draft, setDraft });
  const named = sliceNumber(plane, slice, receipt, volume.instance_numbers);
  const number = `${named.isOfFile ? "slice" : "cut"} ${named.number}`;
  const position = image.toMm(crosshair.value)[AXES[plane].stack];
  const mm = `${"xyz"[AXES[plane].stack]} ${(plane === "axial" ? position : -position).toFixed(1)} mm`;

  const value = image.value(crosshair.value);
  const spoken = [
    `${number} of 0 to ${named.last}`,
    receipt.has_positions && mm,
    Number.isFinite(value) && `value ${numberText(value)}`,
  ]
    .filter(Boolean)
    .join(", ");

  return (
    <div
      ref={frame}
      class="pane"
      data-plane={plane}
      data-tool={tool.value}
      data-slice={slice}
      role="slider"
      aria-orientation="vertical"
      aria-label={`${plane} picture`}
      aria-valuemin={0}
      aria-valuemax={named.last}
      aria-valuenow={named.number}
      aria-valuetext={spoken}
      aria-describedby="picture-keys"
      tabIndex={0}
      {...hands}
    >
      <canvas ref={canvas} />
      <svg class="drawn" aria-hidden="true" width={box.width} height={box.height}>
        {showsCrosshair.value && <Crosshair at={toScreen(view, image.toPixel(plane, crosshair.value))} box={box} />}
        {own.map((one) => (
          <Drawing key={one.key} image={image} measure={one} view={view} volume={volume} />
        ))}
        {draft !== null && tool.value !== "crosshair" && (
          <Drawing
            image={image}
            measure={{ key: 0, kind: tool.value === "region" ? "region" : "length", plane, slice, ends: draft }}
            view={view}
            volume={volume}
          />
        )}
      </svg>
      <p class="corner top-left">
        {number} <small>of 0–{named.last}</small>
        {named.instance !== null && (
          <>
            <br />
            instance {named.instance}
          </>
        )}
      </p>
      <p class="corner top-right">
        {plane}
        <br />
        {lenses.value[plane].zoom !== 1 && `zoom ${lenses.value[plane].zoom.toFixed(1)}×`}
      </p>
      <p class="corner bottom-left">
        W {numberText(grey.value.high - grey.value.low)} L {numberText((grey.value.high + grey.value.low) / 2)}
        {receipt.has_positions && (
          <>
            <br />
            {withMinus(mm)}
          </>
        )}
      </p>
      {numSlices.value < image.shape[2] && (
        <p class="corner bottom-right">{Math.floor((100 * numSlices.value) / image.shape[2])} %</p>
      )}
      {receipt.has_positions &&
        SIDES[plane].map((letter, edge) => (
          <span key={letter} class={`side side-${edge}`} aria-hidden="true">
            {letter}
          </span>
        ))}
    </div>
  );
}

/** The slice's grey pixels in a canvas of their own; painted again only where slice, window or arrived slices change. */
function usePainted(image: ScanImage, plane: Plane, slice: number): { canvas: HTMLCanvasElement } {
  const { columns, rows } = image.sizeOf(plane);
  const kept = useMemo(() => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [columns, rows];
    return { canvas, pixels: new ImageData(columns, rows) };
  }, [columns, rows]);
  const shades = grey.value;
  const arrived = plane === "axial" ? Math.min(slice, numSlices.value - 1) : numSlices.value;
  return useMemo(() => {
    const shown = plane === "axial" ? arrived : slice;
    image.paint(plane, shown, shades, new Uint32Array(kept.pixels.data.buffer));
    kept.canvas.getContext("2d", { willReadFrequently: true })?.putImageData(kept.pixels, 0, 0);
    return { canvas: kept.canvas };
  }, [image, plane, slice, shades, arrived, kept]);
}

function Crosshair({ at: [x, y], box }: { at: Corner; box: Box }) {
  const gap = 8;
  return (
    <path
      class="crosshair"
      d={`M0 ${y}H${x - gap}M${x + gap} ${y}H${box.width}M${x} 0V${y - gap}M${x} ${y + gap}V${box.height}`}
    />
  );
}

function Drawing({ image, measure, view, volume }: { image: ScanImage; measure: Measure; view: View; volume: Volume }) {
  const [[x0, y0], [x1, y1]] = measure.ends.map((end) => toScreen(view, end)) as [Corner, Corner];
  const lines = measureLines(image, measure, volume.receipt.unit, volume.receipt.spacing_mm_zyx !== null);
  return (
    <g class="measure" data-kind={measure.kind}>
      {measure.kind === "length" ? (
        <line x1={x0} y1={y0} x2={x1} y2={y1} />
      ) : (
        <ellipse cx={(x0 + x1) / 2} cy={(y0 + y1) / 2} rx={Math.abs(x1 - x0) / 2} ry={Math.abs(y1 - y0) / 2} />
      )}
      {[
        [x0, y0],
        [x1, y1],
      ].map(([x, y]) => (
        <circle key={`${x} ${y}`} cx={x} cy={y} r={3} />
      ))}
      {lines.map((line, place) => (
        <text key={line} x={Math.max(x0, x1) + 6} y={(y0 + y1) / 2 + 16 * place}>
          {line}
        </text>
      ))}
    </g>
  );
}

interface Handled {
  image: ScanImage;
  plane: Plane;
  slice: number;
  view: View;
  box: Box;
  draft: readonly [Corner, Corner] | null;
  setDraft: (ends: readonly [Corner, Corner] | null) => void;
}

/** What pointer, wheel and keys do on a picture. */
function useHands({ image, plane, slice, view, box, draft, setDraft }: Handled) {
  const fingers = useRef(new Map<number, Corner>());
  const drag = useRef<{ tool: Tool; from: Corner; lens: (typeof lenses.value)[Plane]; grey: typeof grey.value } | null>(
    null,
  );
  const wheel = useRef(0);
  const perMm = view.scaleX / image.sizeOf(plane).columnMm || 1;
  const place = (event: { clientX: number; clientY: number; currentTarget: EventTarget | null }): Corner => {
    const edges = (event.currentTarget as HTMLElement).getBoundingClientRect();
    return [event.clientX - edges.left, event.clientY - edges.top];
  };
  const look = (at: Corner) => moveTo(image.fromPixel(plane, toPixel(view, at), crosshair.value));
  const finish = (ends: readonly [Corner, Corner]) => {
    setDraft(null);
    const [from, to] = ends.map((end) => toScreen(view, end)) as [Corner, Corner];
    if (Math.hypot(to[0] - from[0], to[1] - from[1]) < SMALLEST_DRAG) return;
    addMeasure({ kind: tool.value === "region" ? "region" : "length", plane, slice, ends });
  };
  const zoomAt = ([x, y]: Corner, factor: number) => {
    const lens = lenses.value[plane];
    const zoom = Math.min(30, Math.max(0.5, lens.zoom * factor));
    const by = 1 / zoom - 1 / lens.zoom; // what lies under the pointer stays there
    const fitMm = perMm / lens.zoom;
    setLens(plane, {
      zoom,
      x: lens.x + ((x - box.width / 2) / fitMm) * by,
      y: lens.y + ((y - box.height / 2) / fitMm) * by,
    });
  };
  const pinch = (before: Corner[], after: Corner[]) => {
    const [a0, b0, a1, b1] = [before[0], before[1], after[0], after[1]];
    if (!a0 || !b0 || !a1 || !b1) return;
    const span = (a: Corner, b: Corner) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
    const [middle0, middle1]: Corner[] = [
      [(a0[0] + b0[0]) / 2, (a0[1] + b0[1]) / 2],
      [(a1[0] + b1[0]) / 2, (a1[1] + b1[1]) / 2],
    ] as Corner[] as [Corner, Corner];
    if (!middle0 || !middle1) return;
    zoomAt(middle1, span(a1, b1) / span(a0, b0));
    const lens = lenses.value[plane];
    const shift = perMm || 1;
    setLens(plane, {
      ...lens,
      x: lens.x + (middle1[0] - middle0[0]) / shift,
      y: lens.y + (middle1[1] - middle0[1]) / shift,
    });
  };
  const end = (event: PointerEvent) => {
    fingers.current.delete(event.pointerId);
    if (drag.current === null) return;
    const wasDrawing = drag.current.tool === "length" || drag.current.tool === "region";
    drag.current = null;
    if (wasDrawing && draft !== null) finish(draft);
  };

  return {
    onPointerDown: (event: PointerEvent) => {
      const target = event.currentTarget as HTMLElement;
      target.focus({ preventScroll: true });
      target.setPointerCapture(event.pointerId);
      const at = place(event);
      fingers.current.set(event.pointerId, at);
      if (fingers.current.size === 2) {
        drag.current = null;
        setDraft(null);
        return;
      }
      const doing: Tool =
        event.button === 2 ? "window" : event.button === 1 || event.shiftKey ? "pan" : (tool.value as Tool);
      if (event.button === 1) event.preventDefault();
      drag.current = { tool: doing, from: at, lens: lenses.value[plane], grey: grey.value };
      if (doing === "crosshair") look(at);
      if (doing === "length" || doing === "region") setDraft([toPixel(view, at), toPixel(view, at)]);
    },
    onPointerMove: (event: PointerEvent) => {
      const at = place(event);
      if (fingers.current.size === 2 && fingers.current.has(event.pointerId)) {
        const before = [...fingers.current.values()];
        fingers.current.set(event.pointerId, at);
        pinch(before, [...fingers.current.values()]);
        return;
      }
      const now = drag.current;
      if (now === null) return;
      const [across, down] = [at[0] - now.from[0], at[1] - now.from[1]];
      if (now.tool === "crosshair") look(at);
      else if (now.tool === "window") dragWindow(now.grey, across, down);
      else if (now.tool === "pan")
        setLens(plane, { ...now.lens, x: now.lens.x + across / perMm, y: now.lens.y + down / perMm });
      else if (now.tool === "zoom") setLens(plane, { ...now.lens, zoom: now.lens.zoom * 2 ** (-down / 100) });
      else if (draft !== null) setDraft([draft[0], toPixel(view, at)]);
    },
    onPointerUp: end,
    onPointerCancel: end,
    onContextMenu: (event: Event) => event.preventDefault(),
    onWheel: (event: WheelEvent) => {
      event.preventDefault();
      if (event.ctrlKey) {
        zoomAt(place(event), 2 ** (-event.deltaY / 200));
        return;
      }
      wheel.current += event.deltaMode === 0 ? event.deltaY : event.deltaY * WHEEL_STEP;
      const slices = Math.trunc(wheel.current / WHEEL_STEP);
      if (slices === 0) return;
      wheel.current -= slices * WHEEL_STEP;
      step(AXES[plane].stack, -Math.sign(slices) * Math.max(1, Math.floor(Math.abs(slices) / 2)));
    },
    onKeyDown: (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const { column, row, stack } = AXES[plane];
      const lens = lenses.value[plane];
      const shift = event.shiftKey ? 1 : 0;
      const pan = (x: number, y: number) =>
        setLens(plane, {
          ...lens,
          x: lens.x + (x * box.width) / 10 / perMm,
          y: lens.y + (y * box.height) / 10 / perMm,
        });
      const middle: Corner = [box.width / 2, box.height / 2];
      const at = image.toPixel(plane, crosshair.value);
      const isMeasuring = tool.value === "length" || tool.value === "region";
      const keys: Record<string, () => void> = {
        ArrowLeft: () => (shift ? pan(-1, 0) : step(column, 1)),
        ArrowRight: () => (shift ? pan(1, 0) : step(column, -1)),
        ArrowUp: () => (shift ? pan(0, -1) : step(row, 1)),
        ArrowDown: () => (shift ? pan(0, 1) : step(row, -1)),
        PageUp: () => step(stack, 1),
        PageDown: () => step(stack, -1),
        Home: () => step(stack, -image.shape[stack]),
        End: () => step(stack, image.shape[stack]),
        "+": () => zoomAt(middle, 1.25),
        "=": () => zoomAt(middle, 1.25),
        "-": () => zoomAt(middle, 0.8),
        "0": fitAll,
        x: () => {
          showsCrosshair.value = !showsCrosshair.value;
        },
        h: goToHeaviest,
        c: () => choose("crosshair"),
        w: () => choose("window"),
        g: () => choose("pan"),
        z: () => choose("zoom"),
        l: () => choose("length"),
        r: () => choose("region"),
        Delete: () => {
          const last = measures.value.findLast((one) => one.plane === plane && one.slice === slice);
          if (last) dropMeasure(last.key);
        },
      };
      if (isMeasuring && (event.key === " " || event.key === "Enter")) {
        if (draft === null) setDraft([at, at]);
        else finish([draft[0], at]);
      } else {
        const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
        if (act === undefined) return;
        act();
        if (draft !== null && drag.current === null) setDraft([draft[0], image.toPixel(plane, crosshair.value)]);
      }
      event.preventDefault();
      event.stopPropagation();
    },
  };
}

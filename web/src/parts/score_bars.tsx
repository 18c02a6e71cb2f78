/** How much does each slice count, and what is on it? Bars that are a slider through the scan. */

import { useRef, useState } from "preact/hooks";
import { barAt, chartOf, heaviest, shareText } from "../bars";
import type { Evidence } from "../contract";
import { chosen, endPeek, goTo, marks, peek } from "../session";
import { nearestSlice, placeName, STACK_ENDS, type Stack, sliceName } from "../space";
import { place } from "../viewer/view";

const BOX = 60;
const STEP = 10;

interface Props {
  turn: number;
  evidence: Evidence;
  stack: Stack;
  isOneOfMany: boolean;
}

export function ScoreBars({ turn, evidence, stack, isOneOfMany }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [under, setUnder] = useState<number | null>(null);
  const { bars, evenHeight } = chartOf(evidence, stack);
  const last = stack.first + bars.length - 1;
  const own = chosen.value?.turn === turn && stack.first <= chosen.value.slice && chosen.value.slice <= last;
  const here = own ? (chosen.value?.slice ?? null) : null;
  const crosshair = place.value === null ? null : nearestSlice(marks.value, stack, place.value.fractions);
  const value = here ?? crosshair ?? heaviest(evidence.scores, stack.first, last);
  const told = under ?? value;
  const name = (index: number) =>
    [sliceName(stack, index, isOneOfMany), placeName(stack, index), `weight ${shareText(evidence.scores[index] ?? 0)}`]
      .filter(Boolean)
      .join(" · ");
  const indexAt = (event: PointerEvent) => {
    const edges = box.current?.getBoundingClientRect();
    return edges ? barAt(stack, (event.clientX - edges.left) / edges.width) : stack.first;
  };
  const [start, end] = STACK_ENDS[stack.plane];
  const hasSides = stack.slices[0]?.position_mm !== null;

  return (
    <figure class="chart">
      <div
        ref={box}
        class="bars"
        role="slider"
        tabIndex={0}
        aria-label={`Weight of each ${isOneOfMany ? stack.plane : "grid"} slice`}
        aria-valuemin={stack.first}
        aria-valuemax={last}
        aria-valuenow={value}
        aria-valuetext={name(value)}
        onPointerMove={(event) => {
          const index = indexAt(event);
          if (index === under) return;
          setUnder(index);
          if (event.buttons & 1) goTo(turn, index);
          else if (event.pointerType === "mouse") peek(index);
        }}
        onPointerDown={(event) => {
          if (event.button !== 0) return;
          box.current?.setPointerCapture(event.pointerId);
          goTo(turn, indexAt(event));
        }}
        onPointerLeave={() => {
          setUnder(null);
          endPeek();
        }}
        onKeyDown={(event) => {
          const target = keyTarget(event.key, value, stack.first, last, evidence.scores);
          if (target === null || event.ctrlKey || event.metaKey || event.altKey) return;
          event.preventDefault();
          event.stopPropagation();
          goTo(turn, target);
        }}
      >
        <svg viewBox={`0 0 ${bars.length * STEP} ${BOX}`} preserveAspectRatio="none" aria-hidden="true">
          {bars.map((bar, position) => (
            <g key={bar.index} class={groupClass(bar.index, under, here)} data-slice={bar.index}>
              <rect class="slot" x={position * STEP} y={0} width={STEP} height={BOX} />
              <rect
                class={bar.isNamed ? "bar named" : "bar"}
                x={position * STEP + 1}
                y={BOX * (1 - bar.height)}
                width={STEP - 2}
                height={BOX * bar.height}
              />
            </g>
          ))}
          <line x1={0} x2={bars.length * STEP} y1={BOX * (1 - evenHeight)} y2={BOX * (1 - evenHeight)} />
        </svg>
        {crosshair !== null && (
          <span class="cursor" style={{ left: `${(100 * (crosshair - stack.first + 0.5)) / bars.length}%` }} />
        )}
      </div>
      <figcaption>
        <span>{hasSides ? start : "first"}</span>
        <span class="told">{name(told)}</span>
        <span>{hasSides ? end : "last"}</span>
      </figcaption>
    </figure>
  );
}

function groupClass(index: number, under: number | null, here: number | null): string {
  return [index === under ? "under" : "", index === here ? "here" : ""].filter(Boolean).join(" ");
}

function keyTarget(key: string, now: number, first: number, last: number, scores: readonly number[]): number | null {
  const targets: Record<string, number> = {
    ArrowLeft: now - 1,
    ArrowDown: now - 1,
    ArrowRight: now + 1,
    ArrowUp: now + 1,
    PageDown: now - 5,
    PageUp: now + 5,
    Home: first,
    End: last,
    p: heaviest(scores, first, last),
  };
  const target = targets[key.length === 1 ? key.toLowerCase() : key];
  return target === undefined ? null : Math.min(last, Math.max(first, target));
}

/** Which keys are there, and how is the page meant? */

import type { RefObject } from "preact";
import { CAVEAT } from "../wording";

const KEYS: [string, string][] = [
  ["?", "this help"],
  ["/", "write a question"],
  ["Enter", "ask; Shift+Enter begins a new line"],
  ["Esc", "stop the answer"],
  ["Tab", "go on to the next bars, button or field"],
  ["← →", "on the bars: slice by slice through the scan"],
  ["Home End", "on the bars: first and last slice"],
  ["P", "on the bars: the slice the answer weighs most"],
  ["← → ↑ ↓", "on a picture: move the crosshair; with Shift, the picture"],
  ["Page Up / Down", "on a picture: next and previous slice"],
  ["Home End", "on a picture: first and last slice"],
  ["+ − 0", "on a picture: nearer, farther, fit"],
  ["H", "on a picture: the slice that the latest answer weighs most"],
  ["X", "on a picture: crosshair on or off"],
  ["C W Z G", "on a picture: crosshair, window, zoom, move tool"],
  ["L R Space", "on a picture: measure a length or a region; Space sets its ends"],
  ["Delete", "on a picture: remove its latest measurement"],
  ["1 … 5", "all planes, axial, coronal, sagittal, 3D"],
];

export function HelpDialog({ dialog }: { dialog: RefObject<HTMLDialogElement | null> }) {
  return (
    <dialog ref={dialog} aria-labelledby="help-title" class="help">
      <h2 id="help-title">How to read this page</h2>
      <p>
        Each answer comes with one bar per slice of the scan: how much weight it has in the answer. The dashed line is
        what every slice would get if all counted alike (1/N). Point at a bar to look at its slice; click it to stay
        there. {CAVEAT}
      </p>
      <p>
        Pictures are seen from the patient's feet, front and left: R is the patient's right, on the left of the picture.
        Positions are DICOM patient coordinates in mm; slices count from 0. The wheel leafs through slices, with Ctrl it
        zooms; the right button changes the window, the middle one (or Shift) moves the picture, two fingers zoom.
      </p>
      <h3>Keys</h3>
      <dl class="keys">
        {KEYS.map(([key, meaning]) => (
          <div key={key + meaning}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{meaning}</dd>
          </div>
        ))}
      </dl>
      <form method="dialog" class="buttons">
        <button type="submit" class="main">
          Close
        </button>
      </form>
    </dialog>
  );
}

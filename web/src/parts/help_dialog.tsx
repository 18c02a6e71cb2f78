/** Which keys are there, and how is the page meant? */

import type { RefObject } from "preact";

const KEYS: [string, string][] = [
  ["?", "this help"],
  ["/", "write a question"],
  ["Enter", "ask; Shift+Enter begins a new line"],
  ["Esc", "stop the answer"],
  ["Tab", "go on to the next bars, button or field"],
  ["← →", "on the bars: slice by slice through the scan"],
  ["Home End", "on the bars: first and last slice"],
  ["P", "on the bars: the slice the answer rests on most"],
  ["← → ↑ ↓", "on the picture: move the crosshair"],
  ["Page Up / Down", "on the picture: next and previous slice"],
  ["1 … 5", "on the picture: all planes, axial, coronal, sagittal, 3D"],
];

export function HelpDialog({ dialog }: { dialog: RefObject<HTMLDialogElement | null> }) {
  return (
    <dialog ref={dialog} aria-labelledby="help-title" class="help">
      <h2 id="help-title">How to read this page</h2>
      <p>
        Each answer comes with one bar per slice of the scan: how much the answer rests on it. The dashed line is what
        every slice would get if all counted alike (1/N). Point at a bar to look at its slice; click it to stay there.
      </p>
      <p>
        Pictures are seen from the patient's feet, front and left: R is the patient's right, on the left of the picture.
        Positions are DICOM patient coordinates in mm. Drag with the right button on a picture to change brightness and
        contrast; scroll to leaf through slices.
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

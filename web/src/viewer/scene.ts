/**
 * How is the scan drawn? NiiVue behind a small door: three planes in radiological convention and 3D, grey windows, and a
 * crosshair that speaks LPS millimetres. NiiVue itself is loaded when the first scan is opened.
 */

import type { Niivue } from "@niivue/niivue";
import type { GreyWindow, Millimetres } from "../contract";
import { flipToRas, type Mark } from "../space";

export type Layout = "all" | "axial" | "coronal" | "sagittal" | "render";
export type Fractions = readonly [number, number, number];

export interface Place {
  fractions: Fractions;
  position_mm: Millimetres;
  value: number;
}

/** Of the scan's width, in percent: thinner, and lines vanish between the pixels of a small tile. */
const THIN_LINE = { all: 0.45, one: 0.28 };
const CROSSHAIR = [1, 0.84, 0.29, 0.9];
const LETTERS = [0.85, 0.9, 0.96, 1];
/** Grey, and in 3D the darkest third transparent: air must not hide the body in a window that shows air as grey. */
const GREY = { R: [0, 85, 255], G: [0, 85, 255], B: [0, 85, 255], A: [0, 0, 128], I: [0, 85, 255] };
const [AXIAL, CORONAL, SAGITTAL, RENDER] = [0, 1, 2, 4] as const;
type Tile = { sliceType: number; position: [left: number, top: number, width: number, height: number] };
const TILES: Record<Layout, Tile[]> = {
  all: [
    { sliceType: AXIAL, position: [0, 0, 0.5, 0.5] },
    { sliceType: CORONAL, position: [0.5, 0, 0.5, 0.5] },
    { sliceType: SAGITTAL, position: [0, 0.5, 0.5, 0.5] },
    { sliceType: RENDER, position: [0.5, 0.5, 0.5, 0.5] },
  ],
  axial: [{ sliceType: AXIAL, position: [0, 0, 1, 1] }],
  coronal: [{ sliceType: CORONAL, position: [0, 0, 1, 1] }],
  sagittal: [{ sliceType: SAGITTAL, position: [0, 0, 1, 1] }],
  render: [{ sliceType: RENDER, position: [0, 0, 1, 1] }],
};

export class Scene {
  private constructor(
    private readonly niivue: Niivue,
    private readonly onPlace: (place: Place) => void,
  ) {}

  /** Draw on a canvas; `onPlace` hears every move of the crosshair. */
  static async on(canvas: HTMLCanvasElement, onPlace: (place: Place) => void): Promise<Scene> {
    const { Niivue, DRAG_MODE } = await import("@niivue/niivue");
    const niivue = new Niivue({
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      showAllOrientationMarkers: true,
      show3Dcrosshair: true,
      crosshairWidthUnit: "percent",
      crosshairWidth: THIN_LINE.all,
      crosshairGap: 8,
      crosshairColor: CROSSHAIR,
      fontColor: LETTERS,
      fontMinPx: 14,
      fontSizeScaling: 0.3,
      backColor: [0, 0, 0, 1],
      tileMargin: 2,
      dragMode: DRAG_MODE.windowing,
      dragAndDropEnabled: false,
      isAntiAlias: true,
      loadingText: "",
      logLevel: "error",
      viewModeHotKey: "",
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
    });
    const scene = new Scene(niivue, onPlace);
    niivue.onLocationChange = () => scene.tell();
    await niivue.attachToCanvas(canvas);
    return scene;
  }

  /** Show a scan from the bytes of its NIfTI file; where sides are not known, no letter may claim them. */
  async open(nifti: ArrayBuffer, window: GreyWindow, knowsSides: boolean): Promise<void> {
    this.niivue.setIsOrientationTextVisible(knowsSides);
    await this.niivue.loadFromArrayBuffer(nifti, "scan.nii.gz");
    this.niivue.addColormap("scan", GREY);
    if (this.niivue.volumes[0]) this.niivue.volumes[0].colormap = "scan";
    this.niivue.setRenderAzimuthElevation(200, 12);
    this.setWindow(window.low, window.high);
    this.moveTo([0.5, 0.5, 0.5]);
  }

  /** Give the graphics memory back. */
  dispose(): void {
    this.niivue.cleanup();
    this.niivue.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  setLayout(layout: Layout): void {
    this.niivue.setPan2Dxyzmm([0, 0, 0, 1]);
    this.niivue.setCrosshairWidth(layout === "all" ? THIN_LINE.all : THIN_LINE.one);
    this.niivue.setCustomLayout(TILES[layout]);
  }

  setWindow(low: number, high: number): void {
    const volume = this.niivue.volumes[0];
    if (volume === undefined) return;
    volume.cal_min = low;
    volume.cal_max = high;
    this.niivue.updateGLVolume();
  }

  /** The grey window, which a drag with the right button changes too. */
  get window(): readonly [low: number, high: number] {
    const volume = this.niivue.volumes[0];
    return [volume?.cal_min ?? 0, volume?.cal_max ?? 1];
  }

  /** The lowest and the highest value of the scan. */
  get fullRange(): readonly [number, number] {
    const volume = this.niivue.volumes[0];
    return [volume?.global_min ?? 0, volume?.global_max ?? 1];
  }

  toFraction(ras: Millimetres): ArrayLike<number> {
    return this.niivue.mm2frac([...ras], 0, true);
  }

  get place(): Place {
    const [x = 0.5, y = 0.5, z = 0.5] = this.niivue.scene.crosshairPos;
    const [right = 0, front = 0, head = 0] = this.niivue.frac2mm([x, y, z], 0, true);
    const volume = this.niivue.volumes[0];
    const [i = 0, j = 0, k = 0] = this.niivue.frac2vox([x, y, z]);
    return {
      fractions: [x, y, z],
      position_mm: flipToRas([right, front, head]),
      value: volume?.getValue(i, j, k) ?? Number.NaN,
    };
  }

  moveTo(fractions: Fractions): void {
    this.niivue.scene.crosshairPos = fractions.map((value) => Math.min(1, Math.max(0, value))) as [
      number,
      number,
      number,
    ];
    this.niivue.drawScene();
    this.tell();
  }

  /** Move along one axis, so that what was looked at within the slice stays in sight. */
  moveToMark({ axis, fraction }: Mark): void {
    const moved: [number, number, number] = [...this.place.fractions];
    moved[axis] = fraction;
    this.moveTo(moved);
  }

  /** Move by whole voxels: toward right, front, head. */
  step(right: number, front: number, head: number): void {
    this.niivue.moveCrosshairInVox(right, front, head);
  }

  private tell(): void {
    if (this.niivue.volumes.length > 0) this.onPlace(this.place);
  }
}

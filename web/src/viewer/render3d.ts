/**
 * What does the scan look like in 3D? NiiVue, loaded when somebody asks for it, with a copy of the scan made small enough
 * that a computer without a graphics card can turn it.
 */

import type { Grey, ScanImage } from "./image";
import type { Voxels } from "./nifti";

/** Voxels along the longest side. */
const FINEST = 128;
/** Grey, the darkest third transparent: air must not hide the body in a window that shows air as grey. */
const COLORS = { R: [0, 85, 255], G: [0, 85, 255], B: [0, 85, 255], A: [0, 0, 128], I: [0, 85, 255] };
/** Rows of voxels between two breaths for the browser. */
const ROWS_AT_ONCE = 4000;

export interface Render {
  setWindow(grey: Grey): void;
  dispose(): void;
}

export async function renderOn(canvas: HTMLCanvasElement, image: ScanImage, grey: Grey): Promise<Render> {
  const { Niivue, SLICE_TYPE } = await import("@niivue/niivue");
  const nifti = await smallNifti(image);
  const niivue = new Niivue({
    show3Dcrosshair: false,
    backColor: [0, 0, 0, 1],
    dragAndDropEnabled: false,
    isOrientCube: false,
    loadingText: "",
    logLevel: "error",
    viewModeHotKey: "",
    clipPlaneHotKey: "",
    cycleClipPlaneHotKey: "",
  });
  await niivue.attachToCanvas(canvas);
  await niivue.loadFromArrayBuffer(nifti, "scan.nii");
  niivue.addColormap("scan", COLORS);
  if (niivue.volumes[0]) niivue.volumes[0].colormap = "scan";
  niivue.setSliceType(SLICE_TYPE.RENDER);
  niivue.setRenderAzimuthElevation(200, 12);
  const setWindow = ({ low, high }: Grey) => {
    const volume = niivue.volumes[0];
    if (volume === undefined) return;
    volume.cal_min = low;
    volume.cal_max = high;
    niivue.updateGLVolume();
  };
  setWindow(grey);
  return {
    setWindow,
    dispose: () => {
      niivue.cleanup();
      niivue.gl.getExtension("WEBGL_lose_context")?.loseContext();
    },
  };
}

/** A NIfTI file of at most 128 voxels a side, every one the mean of the block it stands for. */
export async function smallNifti(image: ScanImage): Promise<ArrayBuffer> {
  const factors = image.shape.map((length) => Math.ceil(length / FINEST));
  const shape = image.shape.map((length, axis) => Math.floor(length / (factors[axis] ?? 1)));
  const [fx = 1, fy = 1, fz = 1] = factors;
  const [nx = 1, ny = 1, nz = 1] = shape;
  const file = new ArrayBuffer(352 + 4 * nx * ny * nz);
  const view = new DataView(file);
  view.setInt32(0, 348, true);
  for (const [place, value] of [3, nx, ny, nz, 1, 1, 1, 1].entries()) view.setInt16(40 + 2 * place, value, true);
  view.setInt16(70, 16, true);
  view.setInt16(72, 32, true);
  for (const [place, value] of [1, ...image.spacing.map((size, axis) => size * (factors[axis] ?? 1))].entries())
    view.setFloat32(76 + 4 * place, value, true);
  view.setFloat32(108, 352, true);
  view.setFloat32(112, 1, true);
  view.setInt16(254, 1, true);
  const { affine, slices } = image.scan;
  for (let row = 0; row < 3; row++) {
    const shift = factors.reduce((sum, factor, axis) => sum + ((factor - 1) / 2) * (affine[4 * row + axis] ?? 0), 0);
    for (let axis = 0; axis < 3; axis++)
      view.setFloat32(280 + 16 * row + 4 * axis, (affine[4 * row + axis] ?? 0) * (factors[axis] ?? 1), true);
    view.setFloat32(280 + 16 * row + 12, (affine[4 * row + 3] ?? 0) + shift, true);
  }
  for (const [place, letter] of [..."n+1"].entries()) view.setUint8(344 + place, letter.charCodeAt(0));
  const small = new Float32Array(file, 352);
  const [width] = image.shape;
  let rows = 0;
  for (let z = 0; z < nz * fz; z++) {
    const voxels = slices[z] as Voxels;
    for (let y = 0; y < ny * fy; y++) {
      const to = nx * (Math.floor(y / fy) + ny * Math.floor(z / fz));
      const from = width * y;
      for (let x = 0; x < nx; x++) {
        let sum = 0;
        for (let step = 0; step < fx; step++) sum += voxels[from + x * fx + step] as number;
        small[to + x] = (small[to + x] as number) + sum;
      }
      if (++rows % ROWS_AT_ONCE === 0) await new Promise((resolve) => setTimeout(resolve));
    }
  }
  const block = fx * fy * fz;
  for (let place = 0; place < small.length; place++) small[place] = (small[place] as number) / block;
  return file;
}

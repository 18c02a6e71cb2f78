/** What does the server say? The shapes of its HTTP answers, as far as the page reads them. */

export type Millimetres = readonly [x: number, y: number, z: number];
export type Plane = "axial" | "coronal" | "sagittal";

export interface Settings {
  model: string;
  notices: string[];
  max_upload_bytes: number;
  archives: string[];
  windows: string[];
  needs_token: boolean;
  /** What this model was taught to be asked. */
  ready_questions?: string[];
  default_answer_tokens?: number | null;
  /** Tokens; where the server does not say, the page asks for more until nothing more comes. */
  max_answer_tokens?: number | null;
}

export interface GreyWindow {
  name: string;
  low: number;
  high: number;
  unit: string;
}

/** One slice of the model's grid; position_mm is its centre in DICOM's patient coordinates (LPS). */
export interface GridSlice {
  grid_slice: number;
  source_slices: number[];
  position_mm: Millimetres | null;
  plane: Plane | null;
}

export interface Receipt {
  modality: string;
  unit: string;
  shape_zyx: [number, number, number];
  spacing_mm_zyx: [number, number, number] | null;
  plane: Plane;
  num_source_slices: number;
  has_positions: boolean;
  is_synthetic: boolean;
  source: Record<string, unknown>;
  warnings: string[];
  stored_orientation?: string;
  window: GreyWindow;
  crop_zyx: [[number, number], [number, number], [number, number]];
  grid: { plane: Plane; planes?: Plane[]; num_slices: number; height: number; width: number };
  [fact: string]: unknown;
}

export interface Volume {
  id: string;
  bytes: number;
  expires_at: number | null;
  receipt: Receipt;
  grid_slices: GridSlice[];
  notices: string[];
  /** DICOM's InstanceNumber of each source slice, in the order of `source_slices`. */
  instance_numbers?: number[] | null;
}

export interface SliceRange {
  name: string;
  place: string;
  share: number;
  grid_slices: [first: number, last: number];
}

/** What stands beside the words of an answer: one score per grid slice, summing to 1. */
export interface Evidence {
  scores: number[];
  even_share: number;
  ranges: SliceRange[];
  /** On how many slices the weight is spread, where the server counts them. */
  effective_slices?: number | null;
  /** The server's own words beside the bars. */
  evidence_caveat?: string | null;
}

/** How sure the model is, where it says so. */
export interface Certainty {
  confidence: number | null;
  abstained: boolean;
  /** What is held back and must not be believed; null where the answer's words are the model's own. */
  wouldSay: string | null;
}

export type ContentPart = { type: "text"; text: string } | { type: "file"; file: { file_id: string } };

export interface Message {
  role: "user" | "assistant";
  content: string | ContentPart[];
}

export interface Chunk {
  id?: string;
  choices?: {
    delta?: {
      content?: string | null;
      confidence?: number | null;
      abstained?: string | null;
      would_say?: string | null;
    } & Partial<Evidence>;
    finish_reason?: string | null;
  }[];
  error?: { message: string };
}

/** What was dropped or chosen? One file goes as it is; a folder of DICOM becomes a zip on its way. */

import { zipOf } from "./zip";

export interface ChosenScan {
  file: Blob;
  name: string;
}

/** One upload from what was chosen; hidden files of folders (.DS_Store, DICOMDIR's neighbours) stay behind. */
export async function chosenScan(files: File[]): Promise<ChosenScan> {
  const wanted = files.length > 1 ? files.filter((file) => !file.name.startsWith(".")) : files;
  const [only] = wanted;
  if (wanted.length === 1 && only !== undefined) return { file: only, name: only.name };
  const folder = only?.webkitRelativePath.split("/")[0] || "scan";
  return { file: await zipOf(wanted), name: `${folder}.zip` };
}

/** Every file of a drop, folders opened. */
export async function droppedFiles(drop: DataTransfer): Promise<File[]> {
  const entries = [...drop.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  if (entries.every((entry) => entry.isFile)) return [...drop.files];
  return (await Promise.all(entries.map(filesIn))).flat();
}

async function filesIn(entry: FileSystemEntry): Promise<File[]> {
  if (entry.isFile)
    return [await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject))];
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: File[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return found;
    for (const inner of some) found.push(...(await filesIn(inner)));
  }
}

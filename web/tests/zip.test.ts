import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { chosenScan } from "../src/files";
import { crc32, zipOf } from "../src/zip";

test("the checksum is CRC-32", () => {
  expect(crc32(new TextEncoder().encode("123456789"))).toBe(0xcbf43926);
});

test("Python's zipfile finds the files whole, under names that tell nothing", async () => {
  const folder = mkdtempSync(join(tmpdir(), "zip-"));
  try {
    const zip = await zipOf([new Blob(["first"]), new Blob([new Uint8Array(70_000).fill(7)])]);
    writeFileSync(join(folder, "a.zip"), new Uint8Array(await zip.arrayBuffer()));
    const program =
      "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; " +
      "print([(i.filename, i.file_size) for i in z.infolist()], z.read('0.dcm'))";
    const said = execFileSync("python3", ["-c", program, join(folder, "a.zip")], { encoding: "utf8" });
    expect(said.trim()).toBe("[('0.dcm', 5), ('1.dcm', 70000)] b'first'");
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("one file goes as it is, a folder as a zip without its hidden files", async () => {
  const file = new File(["x"], "scan.nii.gz");
  expect(await chosenScan([file])).toEqual({ file, name: "scan.nii.gz" });
  const inFolder = (name: string) => Object.assign(new File(["x"], name), { webkitRelativePath: `CT/${name}` });
  const packed = await chosenScan([inFolder("a"), inFolder(".DS_Store"), inFolder("b")]);
  expect(packed.name).toBe("CT.zip");
  expect(new TextDecoder().decode(await packed.file.arrayBuffer())).not.toContain("DS_Store");
});

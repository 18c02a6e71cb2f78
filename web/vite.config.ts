/// <reference types="vitest/config" />
import { defineConfig } from "vite";

const NO_CODEC = new URL("src/viewer/no_codec.ts", import.meta.url).pathname;
const SERVER = process.env.SLICESIGHT_SERVER ?? "http://127.0.0.1:8000";

export default defineConfig({
  base: "./",
  resolve: {
    // NiiVue can read zarr; its WebAssembly codecs would be two thirds of the page and are never called here
    alias: ["blosc", "lz4", "zstd"].map((codec) => ({ find: `numcodecs/${codec}`, replacement: NO_CODEC })),
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../src/slicesight/serving/page",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 3000,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/v1": SERVER } },
  test: { include: ["tests/**/*.test.ts"], environment: "node" },
});

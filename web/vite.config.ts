/// <reference types="vitest/config" />
import { defineConfig } from "vite";

const SERVER = process.env.SLICESIGHT_SERVER ?? "http://127.0.0.1:8000";

export default defineConfig({
  base: "./",
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

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createContext, runInContext } from "node:vm";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const COMMON = { entryPoints: [here("../src/index.js")], bundle: true, minify: true, target: "es2022", write: false };

const OWN_BYTES_MAX = 5 * 1024;

test("minified code without dependencies is under 5 KB", async (t) => {
  const { outputFiles } = await build({ ...COMMON, format: "esm", packages: "external" });
  const size = outputFiles[0].contents.length;
  t.diagnostic(`${size} bytes`);
  assert.ok(size < OWN_BYTES_MAX, `${size} bytes`);
});

test("the bundle for pages without modules defines `fanfare`", async () => {
  const { outputFiles } = await build({ ...COMMON, format: "iife", globalName: "fanfare" });
  const page = createContext({ TextEncoder, TextDecoder, Uint8Array, WeakMap });
  runInContext(outputFiles[0].text, page);
  assert.equal(runInContext("typeof fanfare.withDeltas", page), "function");
});

test("type declarations are compatible with pusher-js", async () => {
  const tsc = here("../node_modules/typescript/bin/tsc");
  const options = ["--noEmit", "--strict", "--module", "esnext", "--moduleResolution", "bundler", "--skipLibCheck"];
  const { stdout } = await promisify(execFile)(process.execPath, [tsc, ...options, here("support/usage.ts")]).catch(
    (error) => error,
  );
  assert.equal(stdout, "");
});

// Bundles the dashboard's assets with esbuild into content-hashed, pre-compressed files and a manifest of their names.
import { build } from "esbuild";
import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "../static/dist"));
const fresh = `${out}.new`;

rmSync(fresh, { recursive: true, force: true });
mkdirSync(fresh, { recursive: true });

const result = await build({
  entryPoints: {
    main: join(here, "src/main.js"),
    "main-css": join(here, "css/main.css"),
    icon: join(here, "src/icon.svg"),
  },
  outdir: fresh,
  entryNames: "[name]-[hash]",
  chunkNames: "chunk-[hash]",
  assetNames: "[name]-[hash]",
  loader: { ".svg": "copy", ".woff2": "file" },
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
  publicPath: "/assets/",
});

const names = {};
for (const [path, entry] of Object.entries(result.metafile.outputs)) {
  if (!entry.entryPoint) continue;
  const source = basename(entry.entryPoint);
  names[source] = basename(path);
}
for (const name of readdirSync(fresh)) {
  const data = readFileSync(join(fresh, name));
  if (!/\.(js|css|svg)$/.test(name)) continue;
  writeFileSync(join(fresh, `${name}.gz`), gzipSync(data, { level: 9 }));
  writeFileSync(
    join(fresh, `${name}.br`),
    brotliCompressSync(data, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }),
  );
}
writeFileSync(join(fresh, "manifest.json"), `${JSON.stringify(names, null, 1)}\n`);
rmSync(out, { recursive: true, force: true });
renameSync(fresh, out);

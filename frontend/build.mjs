// Builds the dashboard's CSS and JavaScript into ../web/assets/dist. The server adds a content hash to their names, so
// the files here keep theirs.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync } from "node:fs";
import { build } from "esbuild";

const dist = "../web/assets/dist";
mkdirSync(dist, { recursive: true });

execFileSync("node_modules/.bin/tailwindcss", ["--input", "src/app.css", "--output", `${dist}/app.css`, "--minify"], { stdio: "inherit" });

await build({
  entryPoints: ["src/app.js"],
  outfile: `${dist}/app.js`,
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  legalComments: "none",
  logLevel: "warning",
});

copyFileSync("src/favicon.svg", `${dist}/favicon.svg`);
copyFileSync("node_modules/axe-core/axe.min.js", "../web/testdata/axe.min.js"); // so that tests need no npm

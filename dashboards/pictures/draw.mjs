// node draw.mjs REQUEST.json: draws boards from a running Prometheus. See make.py, which writes the request.
import { build } from 'esbuild';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { chromium } from 'playwright-core';

const here = import.meta.dirname;
const request = JSON.parse(await readFile(process.argv[2], 'utf8'));

async function bundle() {
  const made = await build({
    entryPoints: [path.join(here, 'board.jsx')],
    bundle: true,
    format: 'esm',
    outdir: path.join(here, 'out'),
    write: false,
    jsx: 'automatic',
    define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
    loader: { '.woff': 'dataurl', '.woff2': 'dataurl', '.svg': 'dataurl', '.ttf': 'empty' },
    logLevel: 'warning',
  });
  return Object.fromEntries(made.outputFiles.map((file) => [path.extname(file.path), file.text]));
}

async function ask(expr, step) {
  const when = step ? { start: request.from, end: request.to, step } : { time: request.to };
  const query = new URLSearchParams({ query: expr, ...when });
  const answer = await fetch(`${request.prometheus}/api/v1/${step ? 'query_range' : 'query'}?${query}`);
  const found = await answer.json();
  if (found.status !== 'success') {
    throw new Error(`${expr}: ${found.error}`);
  }
  return found.data.result.map(({ metric, values, value }) => ({ metric, values: values ?? [value] }));
}

const HOST = 'http://pictures';
// Higher than a board: Grafana's table draws nothing that is below the window.
const TALL = 4000;
const files = await bundle();
const icons = path.join(here, 'node_modules/@grafana/ui/dist/public');
const browser = await chromium.launch({ executablePath: request.chromium, args: ['--no-sandbox'] });
try {
  for (const { board, file, width } of request.pictures) {
    const page = await browser.newPage({ viewport: { width, height: TALL }, deviceScaleFactor: 1 });
    const failed = new Promise((_, reject) => page.on('pageerror', reject));
    await page.clock.setFixedTime(request.to * 1000);
    await page.exposeFunction('ask', ask);
    const given = { ...request.page, board: JSON.parse(await readFile(board, 'utf8')), from: request.from, to: request.to };
    await page.route(`${HOST}/**`, async (route) => {
      const { pathname } = new URL(route.request().url());
      if (pathname.startsWith('/public/')) {
        const wanted = path.join(icons, pathname.slice('/public/'.length));
        return existsSync(wanted) ? route.fulfill({ path: wanted }) : route.fulfill({ status: 404 });
      }
      const body = `<!doctype html><meta charset="utf-8"><style>${files['.css'] ?? ''} body { margin: 0; overflow: hidden; }</style><div id="root"></div>
        <script>window.PICTURE = ${JSON.stringify(given)}; window.__grafana_public_path__ = '/public/';</script>`;
      return route.fulfill({ contentType: 'text/html', body });
    });
    await page.goto(`${HOST}/`);
    await page.addScriptTag({ type: 'module', content: files['.js'] });
    await Promise.race([page.waitForSelector('[data-board]', { timeout: 300_000 }), failed]);
    await page.waitForTimeout(1500);
    // What Grafana's frame of a panel has cut is a fault of the board.
    const cut = await page.$$eval('[data-panel] h2', (all) =>
      all.filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.textContent)
    );
    const height = await page.$eval('[data-board]', (one) => Math.ceil(one.getBoundingClientRect().height));
    await page.screenshot({ path: file, clip: { x: 0, y: 0, width, height } });
    if (cut.length > 0) {
      throw new Error(`titles that are cut at ${width} pixels: ${cut.join('; ')}`);
    }
    console.log(file);
    await page.close();
  }
} finally {
  await browser.close();
}

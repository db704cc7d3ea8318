// Goes with the example: src/features/orders
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';
import { findTool } from '../../test/support/tools.ts';
import { expect, type Report } from '../stack/report.ts';

/** Opens every page below the folder: each has to show itself without anything but its file. */
export async function provePages(folder: string, report: Report): Promise<void> {
  const executablePath = findTool('chromium') ?? findTool('google-chrome');
  if (!executablePath) {
    console.log('LEFT OUT: the pages in a browser, for there is no chromium here');
    return;
  }
  await report.check('the pages open in a browser, with their plots and nothing from elsewhere', async () => {
    const pages = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.html'),
    );
    const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
    try {
      const page = await browser.newPage();
      const wrong: string[] = [];
      page.on('pageerror', ({ message }) => wrong.push(message));
      page.on('console', (message) => wrong.push(message.text()));
      page.on('request', (request) => {
        if (!request.url().startsWith('file://')) wrong.push(request.url());
      });
      for (const name of pages) {
        await page.goto(pathToFileURL(join(folder, name)).href);
        const plots = await page.locator('svg').count();
        const expected = /(^|\/)limits-/.test(name) ? 0 : 4;
        expect(plots === expected, `${name}: ${plots} plots`);
        expect(/^\w+: (passed|missed)$/.test((await page.locator('h1').textContent()) ?? ''), name);
        const broken = await page.locator('body').innerText();
        expect(!/undefined|NaN/.test(broken + (await page.content())), `${name} holds what is no value`);
      }
      expect(wrong.length === 0, wrong.join('; '));
      return `${pages.length} pages`;
    } finally {
      await browser.close();
    }
  });
}

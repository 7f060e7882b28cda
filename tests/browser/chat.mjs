// SPDX-License-Identifier: MIT
// chat.mjs - the web page in a real browser against a real server.
//
// JIM=path/to/jim node chat.mjs      CHROMIUM=/path/to/chromium names the browser
// JIM_TEST_TLS=cert-and-key.pem      all of it over https and wss, to a jim built with TLS
//
// Scripts two people through one afternoon; the steps build on one another. Every wait is on a
// condition, none on the clock. Pictures of the page are left in out/.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = dirname(fileURLToPath(import.meta.url));
const jim = resolve(here, process.env.JIM || '../../jim');
const out = join(here, 'out');
const data = mkdtempSync(join(tmpdir(), 'jim-browser-'));
const WAIT = 120000;            // only a hang takes that long
const pem = process.env.JIM_TEST_TLS;
const scheme = pem ? 'https' : 'http';
const secure = pem ? ['-o', 'jim.ssl=on', '-o', 'jim.ssl.only=on', '-o', `jim.ssl.cert=${pem}`] : [];
if (pem) process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'; // it is signed by itself
mkdirSync(out, { recursive: true });

// --- the server ----------------------------------------------------------------------------------

let server = null;
let port = 0;                   // of the server the pages are opened from

// Start a server on `port` (0: any), with further arguments; it becomes the current one. Any: below
// those that the system gives to others, so that it is free when the server comes again.
async function start(store, ...args) {
    for (let tries = 0; tries < 20; tries++) {
        const at = port || 10000 + Math.floor(Math.random() * 12000);
        let said = '';
        server = spawn(jim, ['-p', String(at), '-d', join(data, store), ...secure, ...args],
            { stdio: ['ignore', 'pipe', 'pipe'] });
        server.stderr.on('data', (d) => { said += d; if (process.env.VERBOSE) process.stderr.write(d); });
        for await (const line of createInterface({ input: server.stdout })) {
            if (/^jim: listening on /.test(line)) {
                port = at;
                return;
            }
        }
        if (server.exitCode === null) await once(server, 'close');
        if (port || !/in use/.test(said)) throw new Error(`${jim} ended before it listened: ${said}`);
    }
}

async function stop() {
    if (!server || server.exitCode !== null) return;
    const ended = once(server, 'exit');
    server.kill('SIGTERM');
    const [code] = await ended;
    equal(code, 0, 'exit code');
}

async function api(path, body) {
    const r = await fetch(`${scheme}://127.0.0.1:${port}${path}`, {
        method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
    });
    if (!r.ok) throw new Error(`${path}: ${r.status} ${await r.text()}`);
    return r.json();
}

// --- the harness ---------------------------------------------------------------------------------

let passed = 0, failed = 0;
const troubles = [];            // console errors, page errors, dialogs, policy violations
let restarting = false;         // a refused connection is no trouble then

async function check(name, body) {
    try {
        await body();
        passed++;
        console.log(`ok     ${name}`);
    } catch (e) {
        failed++;
        console.log(`FAILED ${name}\n       ${String(e.stack || e).split('\n').slice(0, 6).join('\n       ')}`);
        for (const [who, page] of Object.entries(open)) {
            await page.screenshot({ path: join(out, `failed-${failed}-${who}.png`), timeout: 10000 }).catch(() => {});
            const shown = await page.locator('body').innerText({ timeout: 10000 }).catch((e) => String(e));
            console.log(`       ${who} sees: ${shown.replace(/\s+/g, ' ').slice(-400)}`);
        }
        if (troubles.length) console.log(`       so far: ${troubles.join('; ').slice(0, 1000)}`);
    }
}

function equal(got, want, what = '') {
    if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`${what} got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}

const open = {};                // name -> page, for pictures of failures

async function visit(browser, name, options = {}) {
    const context = await browser.newContext({ viewport: { width: 1180, height: 760 }, locale: 'en-US',
        ignoreHTTPSErrors: !!pem, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT);
    page.on('console', (m) => {
        if (m.type() === 'error' || m.type() === 'warning')
            if (!(restarting && /WebSocket/.test(m.text()))) troubles.push(`${name}: ${m.text()}`);
    });
    page.on('pageerror', (e) => troubles.push(`${name}: ${e}`));
    page.on('dialog', (d) => { troubles.push(`${name}: dialog ${d.message()}`); d.dismiss(); });
    await page.addInitScript(() => addEventListener('securitypolicyviolation',
        (e) => console.error(`CSP ${e.violatedDirective} ${e.blockedURI}`)));
    await page.goto(`${scheme}://127.0.0.1:${port}/`);
    open[name] = page;
    return page;
}

async function login(page, name) {
    await page.fill('#name', name);
    await page.keyboard.press('Enter');
    await page.waitForSelector('#app:not([hidden])');
    await online(page);
}

const online = (page) => page.waitForSelector('#me-avatar[data-status=online]');
const row = (page, key) => page.locator(`#side .row[data-key="${key}"]`);
const badge = (page, key) => row(page, key).locator('.badge');
const texts = (page) => page.locator('#log .msg .text').allTextContents();
const shows = (page, text) => page.locator('#log .msg .text', { hasText: text }).first().waitFor();
const shot = (page, name) => page.screenshot({ path: join(out, `${name}.png`) });

async function choose(page, key) {
    await row(page, key).click();
    await page.waitForSelector('#conv:not([hidden])');
    await page.waitForFunction((k) => decodeURIComponent(location.hash) === '#' + k, key);
}

async function say(page, text) {
    await page.fill('#text', text);
    await page.press('#text', 'Enter');
    await page.locator('#log .msg.mine.sent .text', { hasText: text }).last().waitFor();
}

// --- the afternoon -------------------------------------------------------------------------------

await start('afternoon');
const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    timeout: WAIT,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
        '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

let alice, bob;

await check('two people log in and see each other online', async () => {
    alice = await visit(browser, 'alice');
    await shot(alice, '1-login');
    await login(alice, 'alice');
    bob = await visit(browser, 'bob');
    await login(bob, 'bob');
    await row(alice, 'p:bob').locator('.avatar[data-status=online]').waitFor();
    await row(bob, 'p:alice').locator('.avatar[data-status=online]').waitFor();
    equal(await alice.inputValue('#name'), 'alice');
});

await check('group messages go both ways', async () => {
    await choose(alice, 'g:100');
    await choose(bob, 'g:100');
    await say(alice, 'Good morning, everybody');
    await shows(bob, 'Good morning, everybody');
    await say(bob, 'Morning, Alice! 早上好');
    await shows(alice, 'Morning, Alice! 早上好');
    equal(await texts(alice), ['Good morning, everybody', 'Morning, Alice! 早上好']);
    equal(await texts(bob), await texts(alice));
});

await check('private messages go both ways, and count as unread until seen', async () => {
    await choose(alice, 'p:bob');
    await say(alice, 'Just between us');
    await badge(bob, 'p:alice').filter({ hasText: /^1$/ }).waitFor();
    await bob.waitForFunction(() => document.title === '(1) jim');
    await choose(bob, 'p:alice');
    await shows(bob, 'Just between us');
    await bob.waitForFunction(() => document.title === 'jim');
    await say(bob, 'Sure, what is it?');
    await shows(alice, 'Sure, what is it?');
});

await check('markup is shown as it was typed', async () => {
    const evil = ['<img src=x onerror=alert(1)>', '<script>alert(2)</script>', '<b onmouseover=alert(3)>hi</b> &amp; "quotes"'];
    for (const s of evil) {
        await say(alice, s);
        await shows(bob, s);
    }
    equal(await bob.locator('#log :is(img, script, b)').count(), 0, 'elements');
    equal(await alice.locator('#lists :is(img, script, b)').count(), 0, 'elements in the list');
    equal((await texts(bob)).slice(-3), evil);
});

await check('web addresses become links, safely', async () => {
    await say(alice, 'see https://example.org/a?b=1&c=2. and javascript:alert(1)');
    const a = bob.locator('#log .text a');
    await a.waitFor();
    equal(await a.getAttribute('href'), 'https://example.org/a?b=1&c=2');
    equal(await a.getAttribute('rel'), 'noopener noreferrer');
    equal(await bob.locator('#log .text a').count(), 1);
});

await check('several lines, a long word and right-to-left text stay inside their bubble', async () => {
    await alice.fill('#text', 'first line');
    await alice.press('#text', 'Shift+Enter');
    await alice.type('#text', 'second line');
    await alice.press('#text', 'Enter');
    await bob.locator('#log .text', { hasText: 'first line\nsecond line' }).waitFor();
    await say(alice, 'w'.repeat(400));
    await say(bob, 'שלום וברכה');
    equal(await bob.evaluate(() => document.querySelector('#log').scrollWidth <= document.querySelector('#log').clientWidth), true);
    await shot(alice, '2-private');
});

await check('who is away finds the messages on return, unread', async () => {
    await bob.goto('about:blank');          // as one leaves a page: what was read is kept
    const state = await bob.context().storageState();
    await bob.context().close();
    delete open.bob;
    await row(alice, 'p:bob').locator('.avatar[data-status=offline]').waitFor();
    await alice.fill('#text', 'Are you there?');
    await alice.press('#text', 'Enter');
    await alice.locator('#log .note', { hasText: 'bob is offline' }).waitFor();
    await say(alice, 'Call me when you are back');
    await choose(alice, 'g:100');
    await say(alice, 'Bob has left, I think');
    await shot(alice, '3-group');
    bob = await visit(browser, 'bob', { storageState: state });
    equal(await bob.inputValue('#name'), 'bob', 'remembered name');
    await login(bob, 'bob');
    await badge(bob, 'p:alice').filter({ hasText: /^2$/ }).waitFor();
    await choose(bob, 'p:alice');
    await shows(bob, 'Call me when you are back');
    await bob.locator('#log .fresh').waitFor();
    await shot(bob, '4-unread');
    await bob.waitForFunction(() => !document.querySelector('.row[data-key="p:alice"] .badge:not([hidden])'));
    equal((await texts(bob)).filter((s) => s === 'Are you there?').length, 1, 'copies');
});

await check('a long history loads by scrolling, in order, once each', async () => {
    for (let i = 1; i <= 120; i++) await api('/api/message/send', { chatType: 2, from: 'carol', to: 'alice', content: `message ${i}`, msgType: 0 });
    await badge(alice, 'p:carol').filter({ hasText: '99+' }).waitFor();
    await alice.reload();           // nothing but the server's store from here on
    await online(alice);
    await choose(alice, 'p:carol');
    await alice.locator('#log .msg').first().waitFor();
    const all = Array.from({ length: 120 }, (_, i) => `message ${i + 1}`);
    await alice.hover('#log');
    while (!(await texts(alice)).includes('message 1')) await alice.mouse.wheel(0, -600);
    equal(await texts(alice), all);
    // And while older ones come in above, what one is reading stays where it is.
    await alice.evaluate(() => { document.querySelector('#log').scrollTop = 1e6; });
    await alice.waitForFunction(() => document.title === 'jim');
});

await check('the place is kept while older messages come in', async () => {
    await choose(alice, 'g:100');
    await choose(alice, 'p:carol');         // the window is back to its newest page
    await alice.waitForFunction(() => document.querySelectorAll('#log .msg').length >= 50);
    const before = await alice.evaluate(() => document.querySelectorAll('#log .msg').length);
    const moved = await alice.evaluate(async () => {
        const log = document.querySelector('#log');
        const first = log.querySelector('.msg');
        log.scrollTop = 0;
        const y = first.getBoundingClientRect().top; // before anything can come
        const n = log.querySelectorAll('.msg').length;
        while (n < 120 && log.querySelectorAll('.msg').length === n) await new Promise((r) => setTimeout(r, 10));
        await new Promise((r) => requestAnimationFrame(r));
        return { grown: log.querySelectorAll('.msg').length, shift: Math.abs(first.getBoundingClientRect().top - y) };
    });
    equal(moved.grown > before, true, `${before} -> ${moved.grown}`);
    equal(moved.shift < 30, true, `shift ${moved.shift}`);
});

await check('1,200 messages: never more than 500 in the page, and back down again', async () => {
    await choose(alice, 'g:100');
    for (let i = 0; i < 1200; i += 50)
        await Promise.all(Array.from({ length: 50 }, (_, k) => api('/api/message/send',
            { chatType: 1, from: 'carol', groupId: '100', content: `flood ${i + k + 1}`, msgType: 0 })));
    await alice.waitForFunction(() => /flood/.test(document.querySelector('#log .msg:last-child .text').textContent)
        && document.querySelectorAll('#log .msg').length === 500);
    await alice.hover('#log');
    let most = 0;
    while (!(await texts(alice)).includes('Good morning, everybody')) {
        await alice.mouse.wheel(0, -5000);
        most = Math.max(most, await alice.locator('#log .msg').count());
    }
    equal(most <= 500, true, `drawn ${most}`);
    equal((await texts(alice))[0], 'Good morning, everybody');
    const seqs = () => alice.evaluate(() => [...document.querySelectorAll('#log .msg')].map((e) => +e.dataset.seq));
    equal((await seqs()).every((s, i, a) => i === 0 || s === a[i - 1] + 1), true, 'no hole');
    await shot(alice, '5-jump');
    await alice.click('#jump');
    await alice.waitForFunction(() => {
        const log = document.querySelector('#log');
        return log.scrollHeight - log.scrollTop - log.clientHeight < 40 && log.lastElementChild?.dataset.seq === '1203';
    });
    const newest = Math.max(...await seqs());
    await say(alice, 'Who was that?');
    equal((await seqs()).at(-1), newest + 1);
});

await check('after a restart the page returns, and what was typed meanwhile goes out once', async () => {
    await choose(alice, 'p:bob');
    restarting = true;
    await stop();
    await alice.waitForSelector('#me-avatar[data-status=offline]');
    await alice.fill('#text', 'typed while the server was down');
    await alice.press('#text', 'Enter');
    await alice.locator('#log .msg.sending .text', { hasText: 'typed while' }).waitFor();
    await shot(alice, '6-down');
    await start('afternoon');
    await online(alice);
    await online(bob);
    await alice.locator('#log .msg.sent .text', { hasText: 'typed while' }).waitFor();
    await shows(bob, 'typed while');
    await say(alice, 'and after');
    await shows(bob, 'and after');
    restarting = false;
    for (const page of [alice, bob]) equal((await texts(page)).filter((s) => s.startsWith('typed while')).length, 1, 'copies');
    await alice.reload();
    await online(alice);
    await shows(alice, 'and after');
    equal((await texts(alice)).filter((s) => s.startsWith('typed while')).length, 1, 'copies in the store');
});

await check('a group is joined by its id; members are listed', async () => {
    await alice.fill('#filter', 'tea room');
    await alice.waitForSelector('#join:not([hidden])');
    await shot(alice, '7-search');
    await alice.click('text=Join the group “tea room”');
    await alice.waitForFunction(() => document.querySelector('#conv-name').textContent === 'tea room');
    await say(alice, 'Anybody for tea?');
    await bob.fill('#filter', 'tea room');
    await bob.click('text=Join the group “tea room”');
    await shows(bob, 'Anybody for tea?');
    await bob.click('#show-members');
    await bob.locator('#members-list .row[data-key="p:alice"]').waitFor();
    await shot(bob, '7-members');
    await bob.keyboard.press('Escape');
    await bob.waitForSelector('#members', { state: 'hidden' });
});

await check('a refused message says so, and goes out when tried again', async () => {
    await bob.evaluate(() => { location.hash = '#g:club'; });
    await bob.waitForFunction(() => document.querySelector('#conv-name').textContent === 'club');
    await bob.fill('#text', 'May I come in?');
    await bob.press('#text', 'Enter');
    await bob.locator('#log .msg.failed .note', { hasText: 'Not allowed' }).waitFor();
    await shot(bob, '8-refused');
    await bob.fill('#filter', 'club');
    await bob.click('text=Join the group “club”');
    await row(bob, 'g:club').waitFor();
    await bob.click('text=Try again');
    await bob.locator('#log .msg.sent .text', { hasText: 'May I come in?' }).waitFor();
    equal(await texts(bob), ['May I come in?']);
});

await check('two windows of one person show the same', async () => {
    const second = await alice.context().newPage();
    await second.goto(`${scheme}://127.0.0.1:${port}/#p%3Abob`);
    await login(second, 'alice');
    await choose(alice, 'p:bob');
    await say(alice, 'from the first window');
    await shows(second, 'from the first window');
    await say(second, 'from the second window');
    await shows(alice, 'from the second window');
    await second.close();
    equal((await texts(alice)).slice(-2), ['from the first window', 'from the second window']);
});

await check('ids that other clients choose do no harm', async () => {
    // The same id from two people, and ids that look like the page's own keys.
    for (const from of ['eve', 'mallory'])
        for (const id of ['fresh', 'none', '1', 'day1', '__proto__'])
            await api('/api/message/send', { chatType: 1, from, groupId: 'club', content: `${from} ${id}`, id, msgType: 0 });
    await choose(bob, 'g:club');
    await shows(bob, 'mallory __proto__');
    equal((await texts(bob)).length, 11);
});

await check('a private message that names a group, as a server of J-IM passes it on, is none of the group\'s', async () => {
    const ida = await visit(browser, 'ida');
    await ida.addInitScript(() => {
        window.WebSocket = class extends WebSocket { constructor(url) { super(url); window.wire = this; } };
    });
    await ida.reload();
    await login(ida, 'ida');
    await choose(ida, 'g:100');
    const newest = () => ida.evaluate(() => +document.querySelector('#log .msg:last-child')?.dataset.seq || 0);
    await ida.waitForFunction(() => document.querySelector('#log .msg:last-child')?.dataset.seq);
    const seq = await newest() + 1;
    const data = { chatType: 2, from: 'eve', to: 'ida', groupId: '100', msgType: 0, seq, id: 'named', content: 'only for you', createTime: Date.now() };
    await ida.evaluate((text) => window.wire.dispatchEvent(new MessageEvent('message', { data: text })), JSON.stringify({ command: 11, data }));
    await row(ida, 'p:eve').locator('.preview', { hasText: 'only for you' }).waitFor();
    await badge(ida, 'p:eve').filter({ hasText: /^1$/ }).waitFor();
    await api('/api/message/send', { chatType: 1, from: 'carol', groupId: '100', content: 'for everybody', msgType: 0 });
    await shows(ida, 'for everybody');
    equal(await newest(), seq);
    equal((await texts(ida)).includes('only for you'), false, 'in the group');
    await ida.context().close();
    delete open.ida;
});

await check('the keyboard is enough', async () => {
    await bob.focus('#filter');
    await bob.keyboard.type('alic');
    await bob.waitForFunction(() => document.querySelectorAll('#people .row').length === 1 && !document.querySelector('#groups .row'));
    await bob.keyboard.press('ArrowDown');
    await bob.keyboard.press('Enter');
    await bob.waitForFunction(() => document.activeElement.id === 'text' && location.hash === '#p%3Aalice');
    await bob.keyboard.type('typed blind');
    await bob.keyboard.press('Enter');
    await bob.locator('#log .msg.mine.sent .text', { hasText: 'typed blind' }).waitFor();
    await bob.keyboard.press('Escape');
    equal(await bob.evaluate(() => document.activeElement.id), 'filter');
    await bob.fill('#filter', '');
    // Everything that can be reached has a name.
    equal(await bob.evaluate(() => [...document.querySelectorAll('button, input, textarea, [tabindex]')]
        .filter((e) => !(e.ariaLabel || e.title || e.textContent.trim() || e.labels?.length)).map((e) => e.id || e.className)), []);
});

await check('a telephone: one pane at a time, nothing to scroll sideways', async () => {
    const dora = await visit(browser, 'dora', { viewport: { width: 360, height: 640 }, hasTouch: true, isMobile: true, colorScheme: 'dark' });
    const narrow = async () => equal(await dora.evaluate(() => document.documentElement.scrollWidth <= innerWidth
        && [...document.querySelectorAll('body *')].every((e) => e.getBoundingClientRect().right <= innerWidth + 1
            || getComputedStyle(e.parentElement).overflowX !== 'visible')), true, 'width');
    await narrow();
    await shot(dora, '8-phone-login');
    await login(dora, 'dora');
    await row(dora, 'g:100').waitFor();
    equal(await dora.locator('#talk').isVisible(), false);
    await narrow();
    await shot(dora, '8-phone-list');
    await row(dora, 'g:100').tap();
    await dora.waitForSelector('#conv:not([hidden])');
    equal(await dora.locator('#side').isVisible(), false);
    await say(dora, 'Hello from the bus, with a message that is long enough to need more than one line');
    await narrow();
    await shot(dora, '8-phone-talk');
    await dora.tap('#back');
    await row(dora, 'g:100').waitFor();
    await row(dora, 'g:100').tap();
    await dora.goBack();            // the phone's own button
    await row(dora, 'g:100').waitFor();
    await dora.context().close();
    delete open.dora;
});

await check('in a Chinese browser the page is Chinese', async () => {
    const li = await visit(browser, '李雷', { locale: 'zh-CN' });
    equal(await li.locator('#login-form button').textContent(), '登录');
    await login(li, '李雷');
    await row(li, 'p:alice').waitFor();
    await choose(li, 'g:100');
    await li.locator('#conv-info', { hasText: '人在线' }).waitFor();
    equal(await li.getAttribute('#text', 'placeholder'), '输入消息');
    equal(await li.getAttribute('html', 'lang'), 'zh-CN');
    const english = await li.evaluate(() => [...document.querySelectorAll('[data-t]')]
        .flatMap((e) => [e.children.length ? '' : e.textContent, ...['title', 'placeholder', 'aria-label'].map((a) => e.getAttribute(a) ?? '')])
        .filter((s) => /[a-z]{3}/i.test(s)));
    equal(english, [], 'left in English');
    await say(li, '大家好，我是李雷。');
    await row(alice, 'g:100').locator('.preview', { hasText: '大家好' }).waitFor();
    await shot(li, '9-chinese');
    await li.context().close();
    delete open['李雷'];
});

await check('a dark screen', async () => {
    await choose(alice, 'p:bob');
    await alice.emulateMedia({ colorScheme: 'dark' });
    await shot(alice, '10-dark');
    equal(await alice.evaluate(() => getComputedStyle(document.body).backgroundColor), 'rgb(20, 22, 31)');
});

await check('logging out ends the session', async () => {
    await alice.click('#logout');
    await alice.waitForSelector('#login:not([hidden])');
    equal(await alice.evaluate(() => location.hash), '');
    await row(bob, 'p:alice').locator('.avatar[data-status=offline]').waitFor();
    await alice.reload();
    equal(await alice.locator('#app').isVisible(), false);
    equal(await alice.inputValue('#name'), 'alice');
});

restarting = true;
await bob.context().close();
delete open.bob;
await stop();

await check('a refused login says so; a later login displaces the earlier one', async () => {
    port = 0;
    await start('one', '-o', 'jim.login.policy=one');
    const frank = await visit(browser, 'frank');
    await frank.fill('#name', '长'.repeat(64));         // more bytes than an id may have
    await frank.keyboard.press('Enter');
    await frank.locator('#login-error', { hasText: 'refused' }).waitFor();
    await login(frank, 'frank');
    const later = await visit(browser, 'later');
    await login(later, 'frank');
    await frank.locator('#login-error', { hasText: 'somewhere else' }).waitFor();
    equal(await frank.locator('#app').isVisible(), false);
    await later.context().close();
    await frank.context().close();
    delete open.frank;
    delete open.later;
    await stop();
});

await check('with passwords: a wrong one is refused, the right one is kept nowhere', async () => {
    const users = join(data, 'users');
    const passwd = spawn(jim, ['passwd', users, 'frank'], { stdio: ['pipe', 'ignore', 'inherit'] });
    passwd.stdin.end('open sesame\n');
    equal((await once(passwd, 'exit'))[0], 0, 'jim passwd');
    port = 0;
    await start('passwords', '-o', 'jim.auth=file', '-o', `jim.users.file=${users}`);
    const frank = await visit(browser, 'frank');
    await frank.click('#login summary');
    for (const word of ['', 'wrong']) {
        await frank.fill('#name', 'frank');
        await frank.fill('#password', word);
        await frank.press('#password', 'Enter');
        await frank.locator('#login-error', { hasText: 'refused' }).waitFor();
        await frank.evaluate(() => { document.querySelector('#login-error').textContent = ''; });
    }
    await frank.fill('#password', 'open sesame');
    await frank.press('#password', 'Enter');
    await online(frank);
    equal(await frank.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, location.href]).includes('sesame')), false, 'stored');
    await frank.context().close();
    delete open.frank;
    await stop();
});

await check('with tokens: of somebody else it is refused, one\'s own lets in, in Chinese too', async () => {
    const secret = '0123456789abcdef0123456789abcdef';
    const make = spawn(jim, ['token', '-u', '小明', '-n', '明'], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, JIM_TOKEN_SECRET: secret } });
    let token = '';
    make.stdout.on('data', (d) => { token += d; });
    await once(make, 'close');
    port = 0;
    await start('tokens', '-o', 'jim.auth=token', '-o', `jim.token.secret=${secret}`, '-o', 'jim.auth.delay=0');
    const ming = await visit(browser, 'ming', { locale: 'zh-CN' });
    equal(await ming.locator('#login summary').textContent(), '密码或令牌');
    await ming.click('#login summary');
    await ming.fill('#password', token.trim());
    await ming.fill('#name', '小红');
    await ming.press('#name', 'Enter');
    await ming.locator('#login-error', { hasText: '登录被拒绝' }).waitFor();
    await ming.fill('#name', '小明');
    await ming.fill('#password', token.trim());
    await ming.press('#password', 'Enter');
    await online(ming);
    equal(await ming.textContent('#me-name'), '明');
    equal(await ming.evaluate((t) => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, location.href]).includes(t), token.trim()), false, 'stored');
    await ming.context().close();
    delete open.ming;
    await stop();
});

await check('a server that cannot check a login says so, and does not blame the name', async () => {
    port = 0;
    await start('hook', '-o', 'jim.auth=hook', '-o', 'jim.login.hook=http://127.0.0.1:1/');
    const frank = await visit(browser, 'frank');
    await frank.fill('#name', 'frank');
    await frank.keyboard.press('Enter');
    await frank.locator('#login-error', { hasText: 'right now' }).waitFor();
    await frank.context().close();
    delete open.frank;
    await stop();
});

await check('without a store people can talk all the same', async () => {
    port = 0;
    await start('none', '-o', 'jim.store=off');
    restarting = false;
    const gina = await visit(browser, 'gina'), hugo = await visit(browser, 'hugo');
    await login(gina, 'gina');
    await login(hugo, 'hugo');
    await choose(gina, 'g:100');
    await choose(hugo, 'g:100');
    await say(gina, 'one');
    await say(hugo, 'two');
    await say(gina, 'three');
    await shows(hugo, 'three');
    for (const page of [gina, hugo]) equal(await texts(page), ['one', 'two', 'three']);
});

await check('no errors on the console, no dialogs, no policy violations', async () => equal(troubles, []));

await browser.close();
await check('the server stops cleanly', stop);
rmSync(data, { recursive: true, force: true });
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);

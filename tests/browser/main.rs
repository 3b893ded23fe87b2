//! report.html in a real browser: Debian's chromium, without a window, driven over its pipe. Where there is none, the tests say so and pass.
//!
//! `LEGWATCH_SHOTS=FOLDER` keeps pictures of the page: light, dark, on a phone.

#[path = "../checker/history.rs"]
mod history;

mod chromium;

use std::path::Path;

use chromium::Chromium;
use history::{History, Load, garbage};
use legwatch::block::Operation;
use legwatch::event::{Action, Decided, What};
use legwatch::header::RuleHead;
use legwatch::picture::Painter;
use legwatch::report::html;

/// What a hostile guest says.
const HOSTILE: &str = "</script><script>window.broken=1</script><img src=x onerror=window.broken=2>\u{2028}&amp;\"'`${1}";

/// A run with findings of two kinds, a rule, a bitmap, and a guest that wants to break the page.
fn page() -> String {
    let mut history = History::with_bitmap(2, None);
    history.header.scenario = format!("name = \"planted\"\n# {HOSTILE}\n");
    history.header.reproduce = "legwatch run planted --seed 1".into();
    history.header.rules.push(RuleHead {
        name: HOSTILE.into(),
        may_not_fire: true,
    });
    for at in 0..200u64 {
        history.honest(&Load::new(1, at + 1, at * 8 % 4096, 8));
    }
    history.push(What::Console {
        line: HOSTILE.into(),
    });
    let lost = Load::new(2, 1, 5000, 8);
    history.begin(&lost);
    history.write(0, 5000, &lost.contents());
    let request = history.arrive(1, Operation::Read, 5000, 8);
    history.push(What::Decided(Decided {
        request,
        rule: 0,
        action: Action::Delay { ms: 3 },
    }));
    history.complete(request);
    history.end(&lost);
    let odd = Load::new(2, 2, 6000, 1);
    history.begin(&odd);
    history.write(0, 6000, &odd.contents());
    history.write(1, 6000, &[garbage(7)]);
    history.end(&odd);
    history.quiet();
    history.superblocks(true);
    history.power_off();
    let mut verdict = history.verdict();
    verdict.findings[0].headline.push_str(HOSTILE);
    verdict.notes.push(HOSTILE.into());
    verdict
        .coverage
        .facts
        .insert(HOSTILE.into(), HOSTILE.into());
    let mut painter = Painter::new(&history.header, &verdict);
    for event in &history.events {
        painter.apply(event);
    }
    html::render(&history.header, &verdict, &painter.finish())
}

fn open(folder: &Path) -> Option<Chromium> {
    let path = folder.join("report.html");
    std::fs::write(&path, page()).unwrap();
    let mut browser = Chromium::start(folder)?;
    browser.open(&path);
    Some(browser)
}

/// A place on the timeline, in the window: x may use `X`, which makes a time (µs) a place as the page's own view has it, and `D`, the page's data.
fn on_timeline(x: &str, y: &str) -> String {
    format!(
        "(() => {{ const D = JSON.parse(document.getElementById('data').textContent), c = document.getElementById('tl'), r = c.getBoundingClientRect(); \
         const [from, to] = document.getElementById('range').textContent.split(' … ').map((s) => parseFloat(s) * 1e6); \
         const X = (us) => (us - from) / (to - from) * c.clientWidth; return [r.left + {x}, r.top + {y}]; }})()"
    )
}

#[test]
fn the_page_renders_filters_links_and_logs_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut page) = open(folder.path()) else {
        println!(
            "skipped: there is no chromium here (apt-get install chromium); ci/full installs it"
        );
        return;
    };
    assert_eq!(page.ask("document.documentElement.dataset.ready"), "yes");
    // Nothing that the guest said became markup.
    assert_eq!(page.ask("typeof window.broken"), "undefined");
    assert_eq!(page.ask("document.images.length"), 0);
    assert_eq!(page.ask("document.scripts.length"), 2);
    assert!(
        page.ask("document.body.textContent.includes('onerror=window.broken')")
            .as_bool()
            .unwrap()
    );

    // Both canvases have been drawn on.
    let colours = |id: &str| {
        format!(
            "(() => {{ const c = {id}; const d = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer); return new Set(d).size; }})()"
        )
    };
    for canvas in [
        "document.getElementById('tl')",
        "document.querySelector('#maps canvas')",
    ] {
        assert!(
            page.ask(&colours(canvas)).as_u64().unwrap() > 4,
            "{canvas} is blank"
        );
    }
    assert!(
        page.ask("document.querySelectorAll('#hists svg rect').length")
            .as_u64()
            .unwrap()
            > 2
    );

    // Filters: fewer rows when kinds or legs are off, one request when its sectors are asked for.
    let rows = "Number(document.getElementById('rowcount').dataset.n)";
    let all = page.ask(rows).as_u64().unwrap();
    page.ask("document.getElementById('kind-write').click()");
    let fewer = page.ask(rows).as_u64().unwrap();
    assert!(fewer < all, "{fewer} of {all}");
    page.ask(
        "document.getElementById('kind-write').click(); document.getElementById('leg-1').click()",
    );
    assert!(page.ask(rows).as_u64().unwrap() < all);
    page.ask("document.getElementById('leg-1').click()");
    assert_eq!(page.ask(rows).as_u64().unwrap(), all);
    page.ask("for (const k of ['boot','mark','console','fault','superblock','bitmap','device']) document.getElementById('kind-'+k).click()");
    page.ask("{ const s = document.getElementById('sectors'); s.value = '7048+8'; s.dispatchEvent(new Event('input')); }");
    assert_eq!(page.ask(rows), 1, "leg a's write of array sector 5000");

    // Links: a finding to the timeline and the map, a triangle to its finding.
    page.ask("{ const s = document.getElementById('sectors'); s.value = ''; s.dispatchEvent(new Event('input')); }");
    let range = "document.getElementById('range').textContent";
    let whole = page.ask(range);
    page.ask("document.querySelector('#finding-0 [data-goto]').click()");
    assert_ne!(page.ask(range), whole);
    let where_ = page.ask("document.getElementById('mapwhere').textContent");
    page.ask("document.querySelector('#finding-0 [data-map]').click()");
    assert_ne!(
        page.ask("document.getElementById('mapwhere').textContent"),
        where_
    );
    assert!(
        page.ask("document.getElementById('mapwhere').textContent")
            .as_str()
            .unwrap()
            .contains("a cell is a sector")
    );
    page.ask("document.querySelectorAll('.finding.at').forEach((e) => e.classList.remove('at'))");
    page.ask("document.getElementById('fit').click(); document.getElementById('timeline').scrollIntoView()");
    page.click(&on_timeline("X(D.findings[0].us)", "6"));
    let opened = "document.querySelector('.finding.at')?.id";
    assert_eq!(page.ask(opened), "finding-0");

    // A request that touched a finding's sectors says so, and leads to it; so does a sector of the map.
    page.ask("document.querySelector('.first [data-goto]').click()");
    assert_ne!(page.ask(range), whole);
    page.ask("document.querySelectorAll('.finding.at').forEach((e) => e.classList.remove('at'))");
    let link = "document.querySelector('#detail a[href=\"#finding-0\"]')";
    let height = page
        .ask("document.getElementById('tl').clientHeight")
        .as_u64()
        .unwrap();
    let read = "X(D.picture.requests.find((r) => r[0] === 1 && r[3] === 0).slice(1, 3).reduce((us, took) => us + took / 2))";
    let mut y = 16;
    while page.ask(&format!("{link} === null")).as_bool().unwrap() {
        assert!(y < height, "no click on the timeline met leg b's read");
        page.click(&on_timeline(read, &y.to_string()));
        y += 1;
    }
    page.ask(&format!("{link}.click()"));
    assert_eq!(page.ask(opened), "finding-0");
    page.ask("document.querySelectorAll('.finding.at').forEach((e) => e.classList.remove('at'))");
    page.ask("document.querySelector('#finding-0 [data-map]').click()");
    page.click(
        "(() => { const r = document.querySelectorAll('#maps canvas')[1].getBoundingClientRect(), size = r.width / 64; \
         return [r.left + size / 2, r.top + 6.5 * size]; })()",
    );
    assert_eq!(page.ask(opened), "finding-0");

    // Zoom by keys, and back.
    page.ask("document.getElementById('fit').click()");
    assert_eq!(page.ask(range), whole);
    page.ask("document.getElementById('zoomin').click()");
    assert_ne!(page.ask(range), whole);
    let view = page.ask(range);
    page.ask("document.getElementById('tl').focus()");
    page.key("+");
    assert_ne!(page.ask(range), view);
    page.key("0");
    assert_eq!(page.ask(range), whole);
    page.ask("document.getElementById('timeline').scrollIntoView()");
    page.ctrl_wheel(&on_timeline("100", "120"));
    page.wait(&format!("{range} !== {whole}"));

    // The first wrong request is named without scrolling, on a desk and on a phone.
    let named = "(() => { scrollTo(0, 0); const b = document.querySelector('.first'); \
         return b.textContent.includes('leg b never got it') && b.getBoundingClientRect().bottom < window.innerHeight; })()";
    assert_eq!(page.ask(named), true);

    // Narrow: nothing is wider than a phone. Dark: other colours.
    page.phone();
    assert_eq!(page.ask(named), true);
    assert!(
        page.ask("document.documentElement.scrollWidth <= window.innerWidth")
            .as_bool()
            .unwrap()
    );
    let light = page.ask("getComputedStyle(document.body).backgroundColor");
    page.ask("document.getElementById('theme').click()");
    assert_ne!(
        page.ask("getComputedStyle(document.body).backgroundColor"),
        light
    );
    page.ask("delete document.documentElement.dataset.theme");
    let ground = "getComputedStyle(document.body).backgroundColor";
    page.prefers("dark");
    let dark = page.ask(ground);
    page.prefers("light");
    assert_ne!(page.ask(ground), dark);
    if let Some(folder) = std::env::var_os("LEGWATCH_SHOTS") {
        page.shots(Path::new(&folder));
    }
    let errors = page.errors();
    assert!(errors.is_empty(), "{errors:?}");
}

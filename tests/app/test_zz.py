from app_page import Form
from test_story import *


def test_look(scenes, app, picture):
    references = scenes.load_saved_view("references")
    app.page.on(
        "console",
        lambda m: print("CONSOLE", m.type, m.text[:300], flush=True) if m.type in ("error", "warning") else None,
    )
    app.page.on(
        "request",
        lambda r: (
            print("REQ", r.url[-40:], (r.post_data or "")[:600], flush=True) if "operators/execute" in r.url else None
        ),
    )
    app.page.on("response", lambda r: print("RESP", r.status, flush=True) if "operators/execute" in r.url else None)
    app.open(scenes.name, "references")
    app.expect_samples(len(references))
    form = app.open_operator("Build reference memory")
    form.tick("Current view")
    app.page.screenshot(path="/tmp/shots/1form.png")
    form.fill("Memory name", MEMORY)
    form.expect_no_refusal()
    outcome = form.execute()
    app.page.screenshot(path="/tmp/shots/2run.png")
    outcome.expect_text("The memory demo holds")
    app.page.screenshot(path="/tmp/shots/3out.png")
    print(outcome.texts(), flush=True)
    outcome.button("Segment the rest").click()
    form = Form(app.page, "Auto-segment view")
    app.page.wait_for_timeout(3000)
    app.page.screenshot(path="/tmp/shots/4seg.png")
    outcome = form.execute()
    outcome.expect_text(re.compile(r"\d+/8 images"))
    app.page.screenshot(path="/tmp/shots/5prog.png")
    outcome.expect_text("instances in 8 images")
    app.page.wait_for_timeout(3000)
    app.page.screenshot(path="/tmp/shots/6out.png")
    print(outcome.texts(), flush=True)
    outcome.button("Review").click()
    app.page.wait_for_timeout(4000)
    app.page.screenshot(path="/tmp/shots/7review.png")

"""Page objects for the FiftyOne App: small steps, each of which waits for its effect.

Nothing sleeps. Playwright polls until a state is reached or `PATIENCE` expires. The timeout is long because a busy
machine with two cores is slow, and it costs nothing if the test passes.
"""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Locator, Page, expect

PATIENCE = 60_000  # ms
JOB_PATIENCE = 600_000  # ms, for the outcome of an operator that runs the models: 40 images at up to 10 s
WINDOW = (1280, 800)

_NO_ADVERTISEMENT = 'localStorage.setItem("fiftyone-enterprise-tooltip-seen", "true")'

RUNS = "runs_panel"

# Progress changes faster than polling: a script in the page records every text.
_WRITE_DOWN_PROGRESS = """() => {
    window.panelTexts = [];
    const look = () => {
        const text = document.querySelector('[data-cy="panel-content-runs_panel"]')?.innerText;
        if (text && text !== window.panelTexts.at(-1)) window.panelTexts.push(text);
    };
    new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true});
}"""


def cy(name: str) -> str:
    """Selector of an element that FiftyOne marks for its own tests."""
    return f'[data-cy="{name}"]'


class AppPage:
    """Tab with the App of one server, blocked from all other hosts."""

    def __init__(self, browser: Browser, url: str, window: tuple[int, int] = WINDOW) -> None:
        self.url = url
        width, height = window
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
        context.set_default_timeout(PATIENCE)
        context.add_init_script(_NO_ADVERTISEMENT)
        context.route(lambda address: not address.startswith(url), lambda route: route.abort())
        self.page: Page = context.new_page()

    def close(self) -> None:
        """Close the tab."""
        self.page.context.close()

    # Grid and sidebar

    def open(self, dataset: str, view: str | None = None) -> None:
        """Open a dataset, or one of its saved views."""
        saved_view = f"?view={view}" if view else ""
        self.page.goto(f"{self.url}/datasets/{dataset}{saved_view}", wait_until="domcontentloaded")
        expect(self.page.locator(cy("panel-container")).first).to_be_visible()

    def expect_samples(self, count: int) -> None:
        """Expect this many samples in the grid, with their images."""
        words = re.compile(rf"(^|\D){count} samples?\b")
        expect(self.page.locator(cy("entry-counts"))).to_have_text(words)
        expect(self.page.locator(cy("looker")).first).to_be_visible()

    def expect_patches(self, count: int) -> None:
        """Expect this many patches in the grid."""
        words = re.compile(rf"(^|\D){count:,} patch(es)?\b")
        expect(self.page.locator(cy("entry-counts"))).to_have_text(words)

    def select(self, *numbers: int) -> None:
        """Select samples or patches in the grid."""
        for number in numbers:
            self.page.locator(cy("looker")).nth(number).click(position={"x": 10, "y": 10})

    def expect_view(self, stage: str) -> None:
        """Expect a stage in the view of the grid."""
        expect(self.page.locator(cy("view-bar"))).to_contain_text(stage)

    def sidebar_field(self, name: str) -> Locator:
        return self.page.locator(cy(f"sidebar-field-container-{name}"))

    def toggle_field(self, name: str) -> None:
        """Toggle the labels of a field by its checkbox in the sidebar."""
        self.page.locator(cy(f"checkbox-{name}")).click()

    # Operators

    def open_operator(self, label: str) -> Form:
        """Select an operator in the operator browser, and return its form."""
        # The keyboard shortcut always works; the button moves into a menu when a panel is open.
        self.page.keyboard.press("`")
        self.page.locator(cy("operators-browser-search")).fill(label)
        self.page.locator(cy("operators-browser")).get_by_text(label, exact=True).click()
        return Form(self.page, label)

    # Panels

    def open_panel(self, name: str) -> Locator:
        """Open a panel by the plus button, that of the panels if several are shown, and return its content."""
        self.page.locator(cy("new-panel-btn")).last.click()
        self.page.locator(cy(f"new-panel-option-{name}")).click()
        content = self.page.locator(cy(f"panel-content-{name}"))
        expect(content).to_be_visible()
        return content


class Form:
    """The form of an operator."""

    def __init__(self, page: Page, label: str) -> None:
        self.page = page
        self.dialog = page.locator(cy("operators-prompt-modal"))
        self.button = self.dialog.get_by_role("button", name="Execute", exact=True)
        expect(self.dialog).to_contain_text(label)
        expect(self.button).to_be_visible()

    def choose(self, label: str, option: str) -> None:
        """Select an entry of a drop-down."""
        self._after(label, 'div[@role="combobox"]').click()
        self.page.get_by_role("option", name=option).click()
        expect(self._after(label, 'div[@role="combobox"]')).to_have_text(option)

    def fill(self, label: str, text: str) -> None:
        """Type into a text input."""
        self._after(label, "input").fill(text)

    def tick(self, label: str) -> None:
        """Select a radio button."""
        self.dialog.get_by_text(label, exact=True).click()
        expect(self.dialog.get_by_role("radio", name=re.compile(rf"^{re.escape(label)}\b"))).to_be_checked()

    def show_advanced(self) -> None:
        """Show the options that stand behind a switch."""
        self.dialog.get_by_text("Advanced", exact=True).click()
        expect(self.dialog.get_by_text("Device", exact=True)).to_be_visible()

    def expect_refusal(self, message: str | re.Pattern[str]) -> None:
        """Expect a validation message and a disabled submit button."""
        expect(self.dialog).to_contain_text(message)
        expect(self.button).to_be_disabled()

    def expect_no_refusal(self) -> None:
        """Expect a valid form that can be submitted."""
        expect(self.button).to_be_enabled()

    def execute(self) -> Outcome:
        expect(self.button).to_be_enabled()
        self.page.evaluate(_WRITE_DOWN_PROGRESS)
        self.button.click()
        expect(self.dialog).to_be_hidden()
        return Outcome(self.page)

    def submit(self) -> None:
        """Run an operator that is no job, and close its short summary."""
        self.button.click()
        self.dialog.get_by_role("button", name="Close", exact=True).click()
        expect(self.dialog).to_be_hidden()

    def cancel(self) -> None:
        self.dialog.get_by_role("button", name="Cancel", exact=True).click()
        expect(self.dialog).to_be_hidden()

    def _after(self, label: str, element: str) -> Locator:
        return self.dialog.locator(f'xpath=.//p[normalize-space()="{label}"]/following::{element}[1]')


class Outcome:
    """The panel of runs, which follows a form: the progress of the job, then its outcome."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.panel = page.locator(cy(f"panel-content-{RUNS}"))
        expect(self.panel).to_be_visible()

    def expect_text(self, text: str | re.Pattern[str]) -> None:
        expect(self.panel).to_contain_text(text, timeout=JOB_PATIENCE)

    def expect_failure(self, operator: str, reason: str | re.Pattern[str]) -> None:
        """Expect an error message as the outcome."""
        self.expect_text(f"{operator}: failed")
        self.expect_text(reason)

    def table(self) -> list[list[str]]:
        """Rows of the outcome's table, without its header. The list of stored runs is another table."""
        table = self.panel.locator("table").first
        expect(table.locator("tbody tr").first).to_be_visible()
        return [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]

    def texts(self) -> list[str]:
        """All texts that the panel has shown, in order."""
        return self.page.evaluate("window.panelTexts")

    def button(self, name: str) -> Locator:
        return self.panel.get_by_role("button", name=name)

    def done(self) -> None:
        """Dismiss the outcome."""
        dismiss = self.panel.locator("button").filter(has_text="close")  # its icon has no other name
        dismiss.click()
        expect(dismiss).to_have_count(0)

"""What a worker shows comes to the driver's screen as if the work were done there."""

import pickle

from rich.text import Text

from raydd.io.console import Screen
from raydd.run.events import EventScreen, Replay, Watch


class Recorded(Screen):
    """A screen that lists what it shows."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def note(self, text):
        self.lines.append(text)

    def doing(self, text):
        return self._block(text)

    def watch(self, title, total):
        return self._block(f"{title} of {total}", lambda *shown: self.lines.append((*shown[:2], str(shown[2]()))))

    def _block(self, name, value=None):
        lines = self.lines

        class Block:
            def __enter__(self):
                lines.append(f"+{name}")
                return value

            def __exit__(self, *error):
                lines.append(f"-{name}")

        return Block()


def test_notes_and_progress_are_shown_in_order(monkeypatch):
    monkeypatch.setattr("raydd.run.events.DRAW_SECONDS", 0.0)
    monkeypatch.setattr("raydd.run.events.DRAW_SHARE", 1e9)
    events = []
    sender, screen = EventScreen(events.append, pictures=True), Recorded()
    sender.note("a line of here/run")
    sender.public = lambda text: text.replace("here/run", "s3://b/run")
    sender.once("here/run twice")
    sender.once("here/run twice")
    with sender.doing("preparing"):
        pass
    with sender.watch("mtt", 3) as show:
        show(1, "loss 2", lambda: Text("picture"))
        show(2, "loss 1", lambda: Text("picture"))
    replay = Replay(screen)
    assert all(replay.show(pickle.loads(pickle.dumps(event))) for event in events)
    assert screen.lines == [
        "a line of here/run",
        "s3://b/run twice",
        "+preparing",
        "-preparing",
        "+mtt of 3",
        (1, "loss 2", "picture"),
        (2, "loss 1", "picture"),
        "-mtt of 3",
    ]
    assert not replay.show(object())


def test_a_progress_is_emitted_at_a_bounded_rate_and_ends_with_its_worker():
    events = []
    with EventScreen(events.append, pictures=False).watch("dm", 1000) as show:
        for step in range(1000):
            show(step, "", lambda: Text("never drawn"))
    assert len(events) < 10
    assert all(event.picture is None for event in events[1:-1])
    screen = Recorded()
    replay = Replay(screen)
    replay.show(Watch("dm", 1000))
    assert replay.watches
    replay.close()
    assert not replay.watches
    assert screen.lines == ["+dm of 1000", "-dm of 1000"]

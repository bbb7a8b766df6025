import io

from rich.console import Console
from rich.text import Text

from raydd.figures.trial_tables import SHOWN, trial_table
from raydd.io import console
from raydd.io.console import Screen
from raydd.tuning.trial_scheduler import TrialProgress


def rendered(table):
    text = Console(file=io.StringIO(), width=200, emoji=False)
    text.print(table)
    return text.file.getvalue()


def test_running_trials_come_first_then_the_best_and_settings_are_as_they_are():
    rows = [
        TrialProgress(0, {"lr.images": 0.123456, "labels": "[bold]own"}, 20, 20, 0.91, "complete"),
        TrialProgress(1, {"lr.images": 5.0}, 20, 8, 0.5),
        TrialProgress(2, {"lr.images": 7.0}, 20, 20, 0.951, "complete"),
        TrialProgress(3, {}, 20),
    ]
    lines = [line for line in rendered(trial_table(rows)).splitlines() if "/20" in line]
    cells = [[cell.strip() for cell in line.split("│")] for line in lines]
    assert [row[0] for row in cells] == ["1", "3", "2", "0"]
    assert cells[0] == ["1", "running", "8/20", "50.0", "lr.images 5"]
    assert cells[1][3] == ""
    assert cells[3] == ["0", "complete", "20/20", "91.0", "lr.images 0.123, labels [bold]own"]


def test_a_long_search_shows_the_first_and_says_how_many_more_there_are():
    shown = rendered(trial_table([TrialProgress(number, {}, 20, 20, 0.5, "complete") for number in range(SHOWN + 3)]))
    assert shown.count("20/20") == SHOWN
    assert "and 3 more" in shown


def test_a_picture_is_drawn_anew_on_a_terminal_and_told_in_lines_elsewhere(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Screen().live("search") as update:
        update(lambda: Text("never drawn"), "1 of 3 trials")
        now[0] += 11
        update(lambda: Text("never drawn"), "2 of 3 trials")
    assert capsys.readouterr() == ("", "search: 2 of 3 trials\n")

    screen, seen = Screen(), io.StringIO()
    screen._err = Console(file=seen, force_terminal=True, width=80)
    with screen.live("search") as update:
        update(lambda: Text("the picture"), "2 of 3 trials")
        screen.note("a note above it")
    assert "the picture" in seen.getvalue()
    assert "search: 2 of 3 trials" in seen.getvalue()
    assert "a note above it" in seen.getvalue()

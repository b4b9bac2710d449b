"""How far a sweep is that runs elsewhere."""

from __future__ import annotations

from fairkv_eval.sweep.on_ray import Gathered, Stand, Told, cells_done, line


def test_a_told_bar_draws_nothing_and_tells_where_it_is(capfd) -> None:
    heard = []
    with Told(total=3, desc="say", mininterval=0, tell=lambda name, stand: heard.append((name, stand))) as bar:
        for done in range(3):
            bar.set_postfix_str(f"{done + 1}/3 prompts", refresh=False)
            bar.update(1)
    assert heard[0] == ("say", Stand(0, 3, ""))
    assert [stand.done for _, stand in heard[1:4]] == [1, 2, 3] and heard[-1] == ("say", Stand(3, 3, "3/3 prompts"))
    assert capfd.readouterr() == ("", "")
    heard.clear()
    with Told(total=0, desc="say", disable=True, tell=lambda *told: heard.append(told)):
        pass
    assert not heard


def test_parts_under_way_count_for_the_share_that_is_done() -> None:
    gathered = Gathered()
    running = {"a": 10, "b": 4, "unheard of": 7}
    assert cells_done(gathered.stands(), running, bars=2) == 0 and line(gathered.stands(), running) == ""
    gathered.tell("a", "say", Stand(50, 50, "5/5 prompts"))
    gathered.tell("a", "say fidelity", Stand(1, 5, ""))
    gathered.tell("b", "pick", Stand(3, 12, "1/4 cells"))
    gathered.tell("done before", "say", Stand(1, 1, ""))
    assert cells_done(gathered.stands(), running, bars=2) == 10 * (1 + 0.2) / 2 + 4 * 0.25 / 2
    assert cells_done(gathered.stands(), {"b": 4}, bars=1) == 1
    assert line(gathered.stands(), running) == "say fidelity 1/5; pick 3/12 (1/4 cells)"
    gathered.tell("b", "pick", Stand(0, 0, ""))  # nothing was left to do
    assert cells_done(gathered.stands(), {"b": 4}, bars=1) == 4

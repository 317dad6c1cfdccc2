from transfer.study.compare import compare


def rows(comparison):
    return {row.label: row for row in comparison.rows}


def test_the_command_is_the_one_that_was_typed(study):
    typed = ["experiment=movies_to_shops", "target.data.train_size=100", "scratch.lr=0.001", "optimizer.lr=1e-5"]
    study.add("transfer", 0, overrides=[*typed, "arm=transfer", "seed=0"])
    study.add("scratch", 0, overrides=["experiment=movies_to_shops", "arm=scratch", "seed=0", "+note='a b'"])
    comparison = compare(study.records)
    found = rows(comparison)
    assert found["transfer from movies"].commands == [
        "transfer run experiment=movies_to_shops target.data.train_size=100 scratch.lr=0.001 optimizer.lr=1e-5 "
        "arm=transfer seed=0"
    ]
    assert found["scratch"].commands == [
        "transfer run experiment=movies_to_shops arm=scratch seed=0 '+note='\"'\"'a b'\"'\"''"
    ]


def test_the_twin_of_a_typed_command_leaves_out_what_it_does_not_read(study):
    """The source stays: its texts may have made the vocabulary."""
    typed = ["experiment=movies_to_shops", "optimizer.lr=1e-5", "source.data.path=a.csv", "arm=transfer", "seed=4"]
    study.add("transfer", 4, overrides=typed)
    assert rows(compare(study.records))["transfer from movies"].missing == [
        "transfer run experiment=movies_to_shops source.data.path=a.csv arm=scratch seed=4"
    ]


def test_a_typed_command_without_its_seed_gets_it(study):
    study.add("transfer", 0, overrides=["experiment=movies_to_shops"])
    study.add("scratch", 0)
    assert compare(study.records).next_commands[0] == "transfer run experiment=movies_to_shops arm=transfer seed=1"

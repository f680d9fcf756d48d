"""Command lines of the tools that make no sense."""

import pytest

from bad_inputs.entry import REPOSITORY, check_refusal

TABLE = f"{REPOSITORY}/configs/limited-data/table1.yaml"

ROWS = [
    ("make_dataset.py --root set --train 3", "--train is 3", "16 or more"),
    ("make_dataset.py --root set --train 99999999999999999999", "--train", "at most 999999"),
    ("make_dataset.py --root set --val -3", "--val is -3", "1 or more"),
    ("make_dataset.py --root set --seed -3", "--seed is -3", "0 or more"),
    ("make_dataset.py --root student.yaml", "student.yaml", "directory"),
    ("reproduce.py", "TABLE", "required"),
    ("reproduce.py A9", "A9", "choose from A1"),
    ("reproduce.py A1 --scale huge", "--scale", "'tiny', 'small', 'full'"),
    ("reproduce.py A1 --seeds 0", "--seeds", "1 or more"),
    ("reproduce.py A1 --jobs 0", "--jobs", "1 or more"),
    ("reproduce.py A1 --rows tutor --dry-run", "--rows tutor", "teacher"),
    ("reproduce.py A1 --data no.yaml --dry-run", "no.yaml", "No such file"),
    ("reproduce.py A1 --data student.yaml --dry-run", "student.yaml", "Choose from: annotates"),
    ("reproduce.py A1 SOLVER.MAX_ITR 3 --dry-run", "SOLVER.MAX_ITR", "Did you mean 'MAX_ITER'?"),
    ("reproduce.py A1 SOLVER.MAX_ITER --dry-run", "SOLVER.MAX_ITER", "pairs of KEY VALUE"),
    ("reproduce.py A1 SOLVER.MAX_ITER x --dry-run", "SOLVER.MAX_ITER", "int"),
    ("reproduce.py A1 OUTPUT_DIR x --dry-run", "OUTPUT_DIR", "--output"),
    ("reproduce.py A1 --submit pbs", "--submit", "'slurm', 'local'"),
    ("reproduce.py A1 --submit local --submit-option gpu", "--submit-option gpu", "KEY=VALUE"),
    ("quickstart.py --seed x", "--seed", "int"),
    ("convert_weights.py no.pth out.pth", "no.pth", "weights of a trained model"),
    ("convert_weights.py teacher.pth out.pth", "backbone", "resnet18"),
    ("convert_weights.py teacher.pth ./teacher.pth", "'teacher.pth' is the input", "another name"),
    ("check_data.py", "card", "required"),
    ("check_data.py no.yaml", "no.yaml", "No such file"),
    ("check_data.py nowhere", "nowhere", "does not exist"),
    ("check_data.py student.yaml", "student.yaml", "unknown key"),
    ("check_data.py teacher.pth", "teacher.pth", "name a folder of data"),
    ("check_data.py devkit.yaml --config-file no.yaml", "no.yaml", "Did you mean"),
    ("check_data.py devkit.yaml --output masks", "--output 'masks'", "name a file"),
    ("distill.py", "data", "required"),
    ("distill.py nowhere", "nowhere", "does not exist"),
    ("distill.py student.yaml", "student.yaml", "unknown key"),
    ("distill.py devkit.yaml --tasks cls --output {}/out", "--tasks cls", "det"),
    ("distill.py devkit.yaml --classes disk --output {}/out", "disk", "disc"),
    ("distill.py devkit.yaml --labels 2", "--labels 2", "such as 1/4"),
    ("distill.py devkit.yaml --labels 1/0", "--labels", "1/0"),
    ("distill.py devkit.yaml --minutes 0", "--minutes", "greater than 0"),
    ("distill.py devkit.yaml --size tiny", "--size", "'nano'"),
    ("distill.py devkit.yaml --pretrained a b c", "--pretrained", "of the student"),
    ("distill.py devkit.yaml --pretrained no.pth --output {}/out2", "no.pth", "such as"),
    ("distill.py devkit.yaml --teacher no.yaml no.pth --output {}/out3", "no.yaml", "Did you mean"),
    ("quickstart.py --seed 99999999999 --output {}/out", "SEED", "less than 4294900000"),
]
TRAIN_NET = [
    ("student.yaml --write-config no/such/x.yaml", "no/such/x.yaml", "No such file"),
    ("student.yaml --write-config masks", "masks", "Is a directory"),
    ("student.yaml --eval-only", "MODEL.WEIGHTS", "such as student.pth"),
    ("student.yaml --eval-only MODEL.WEIGHTS no.pth", "no.pth", "such as student.pth"),
    ("student.yaml --eval-only --resume", "MODEL.WEIGHTS", "such as student.pth"),
    ("student.yaml SOLVER.MAX_ITER 3 --resume", "--resume", "put it before them"),
    ("student.yaml --write-config ./student.yaml", "student.yaml", "another file"),
    ("student.yaml --write-config teacher.pth", "teacher.pth", "another file"),
    (
        "student.yaml --eval-only MODEL.WEIGHTS teacher.pth DATASETS.TEST ()",
        "DATASETS.TEST",
        "name the data sets",
    ),
    ("student.yaml --num-machines 2", "--num-machines is 2", "GPU"),
    ("student.yaml --num-machines 2 --dist-url auto", "--dist-url is auto", "the first"),
    ("student.yaml --num-machines 0", "--num-machines 0", "number of machines"),
    ("student.yaml --machine-rank 7", "--machine-rank is 7", "from 0 on"),
    ("student.yaml --num-gpus x", "--num-gpus", "int"),
    ("student.yml", "student.yml", "Did you mean 'student.yaml'?"),
    ("masks", "'masks', a folder", "name a file in it"),
    ("student.yaml#a/b", "student.yaml", "columns"),
    (TABLE, "table1.yaml#DATA/ROW", "name one of its rows"),
    (f"{TABLE}#toy", "table1.yaml#toy", "FILE#DATA/ROW"),
    (f"{TABLE}#toyy/half/teacher", "'toyy'", "Did you mean 'toy'?"),
    (f"{TABLE}#toy/half/techer", "'half/techer'", "Did you mean 'half/teacher'?"),
]


@pytest.mark.parametrize(("line", "fault", "cure"), ROWS, ids=[line for line, *_ in ROWS])
def test_a_tool_names_the_argument(world, line, fault, cure):
    script, *argv = line.format(world.folder).split()
    check_refusal(world.refused(f"tools/{script}", *argv), fault, cure)


@pytest.mark.parametrize(("line", "fault", "cure"), TRAIN_NET, ids=[x for x, *_ in TRAIN_NET])
def test_train_net_names_the_argument(world, line, fault, cure):
    check_refusal(world.refused("train_net.py", "--config-file", *line.split()), fault, cure)

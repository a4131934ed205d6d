import numpy as np
import pytest

from transportjax.apps import Table, TableError, read_table, write_table
from transportjax.apps.tables import write_scores

VALUES = np.array([[0.1, -2.0, 1e-9], [3.0, 1e300, 1 / 3], [-5.25, 7.0, 12345.678]])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".npy", ".npz", ".CSV"])
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    columns = ("# a", "with, comma; and", 'and "quotes"')
    write_table(path, Table(VALUES, columns))
    again = read_table(path)
    np.testing.assert_array_equal(again.values, VALUES)
    is_text = suffix not in (".npy", ".npz")
    assert again.columns == (columns if is_text else ())
    with pytest.raises(FileExistsError):
        write_table(path, Table(VALUES), overwrite=False)
    write_table(path, Table(VALUES[:1]))
    assert read_table(path).values.shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "x,y\n1,2\n3,4\n"),
        ("a.csv", "\ufeffx;y\r\n1;2\r\n3;4"),
        ("a.csv", "# made by hand\n\nx , y\n1, 2\n # more\n 3 ,4\n\n"),
        ("a.tsv", "x\ty\n1\t2\n3\t4\n"),
        ("a.txt", "x y\n1   2\n 3\t4\n"),
        ("a.txt", "x y\n1 2\n   3 4   \n"),
        ("a.txt", "x,y\n1,2\n3,4\n"),
        ("a.csv", '"x","y"\n"1","2"\n3,"4"\n'),
        ("a.csv", "x,y\n1e0,2\n+3,4.0\n"),
        ("a.csv", "x,y,\n1,2,\n3,4,\n"),
        ("a.csv", "sep=;\nx;y\n1;2\n3;4\n"),
    ],
)
def test_texts_of_many_makes(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    table = read_table(path)
    np.testing.assert_array_equal(table.values, [[1, 2], [3, 4]])
    assert table.columns == ("x", "y")


def test_old_ends_of_lines_and_marks_in_names(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"x,y\r1,2\r3,4\r")
    assert read_table(path).columns == ("x", "y")
    path.write_text("income (k; net),y\n1,2\n3,4\n")
    assert read_table(path).columns == ("income (k; net)", "y")
    path = tmp_path / "a.txt"
    write_table(path, Table(VALUES, ("", "b", "c")))  # as of a table with row numbers
    assert read_table(path).columns == ("", "b", "c")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_decimal_commas(tmp_path, suffix):
    mark = ";" if suffix == ".csv" else "\t"
    path = tmp_path / f"a{suffix}"
    for names in ("", f"height, m{mark}y\n"):
        path.write_text(names + f"1,5{mark}2\n-0,25{mark}1,5e3\n")
        table = read_table(path)
        np.testing.assert_array_equal(table.values, [[1.5, 2], [-0.25, 1500]])
        assert table.columns == (("height, m", "y") if names else ())


def test_text_of_two_bytes_a_letter(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("a\u00e7\u00e3o,y\n1,2\n".encode("utf-16"))
    assert read_table(path).columns == ("a\u00e7\u00e3o", "y")


def test_one_column_with_a_name_of_two_words(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("body mass\n1\n2\n")
    assert read_table(path).columns == ("body mass",)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2019,2020,2021\n1,5.5,2\n7,9,9\n", True),
        ("0,1\n1,5\n7,9\n", True),
        (",0,1\n0,5,5\n1,9,10\n", True),  # row numbers, without a name
        ("id,2019,2020\n1,3,4\n2,4,5\n", True),
        ('"1","5"\n1,2\n3,2\n', True),
        ("1,2\n5,9\n7,8\n", False),  # another line counts up
        ("1,3\n5,9\n7,9\n", False),
        ("7,8\n5,9\n9,3\n", False),  # by chance: both are like those below
        ("2019,2020\n5,9\n9,3\n", True),
        ("7,8,9\n5,9,9\n9,3,1\n", True),
        ("1.5,2.5\n5,9\n7,9\n", False),
        ("1,1\n5,9\n7,9\n", False),
        ("7\n5\n9\n", False),
        ("1,2\n", False),  # nothing would be left
        ('"1","2"\n"5","9"\n"6","7"\n', False),
    ],
)
def test_names_that_are_numbers(tmp_path, text, found):
    """Whether they are found out; and either way if asked for."""
    path = tmp_path / "a.csv"
    path.write_text(text)
    names = tuple(text.split("\n")[0].replace('"', "").split(","))
    num = text.count("\n")
    table = read_table(path)
    assert (table.columns, len(table.values)) == (
        (names, num - 1) if found else ((), num)
    )
    if num > 1:
        asked = read_table(path, header=True)
        assert (asked.columns, len(asked.values)) == (names, num - 1)
    if "id" not in text and names[0]:
        asked = read_table(path, header=False)
        assert (asked.columns, len(asked.values)) == ((), num)
        np.testing.assert_array_equal(asked.values[0], np.array(names, float))
    # such names are written so that they are read
    write_table(path, Table(VALUES, ("7", "3", "x")))
    assert read_table(path).columns == ("7", "3", "x")


def test_a_header_that_is_none(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(TableError, match="line 1, column 1: 'x' is not a number"):
        read_table(path, header=False)
    np.save(tmp_path / "a.npy", VALUES)
    with pytest.raises(TableError, match="have a line of names"):
        read_table(tmp_path / "a.npy", header=True)


def test_names_that_begin_with_digits(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Id,1stFlrSF\n1,2\n")
    assert read_table(path).columns == ("Id", "1stFlrSF")


def test_without_names(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1\n2\n3\n")
    table = read_table(path)
    assert (table.values.shape, table.columns) == ((3, 1), ())


def test_whole_numbers_are_written_as_such(tmp_path):
    path = tmp_path / "a.csv"
    write_table(path, Table(np.array([[1.0, 0.5, -0.0], [2.0, 3.0, 4.0]])))
    assert path.read_text() == "1,0.5,0\n2,3.0,4\n"
    write_scores(path, np.array([-1.5, -np.inf]))
    assert path.read_text() == "log_likelihood\n-1.5\n-inf\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.csv: is empty"),
        ("\n# nothing\n", "a.csv: holds no numbers"),
        ("x,y\n", "a.csv: has a line of names, and no numbers under it"),
        ("x,y\n1,2\n3,\n", r"a.csv, line 3, column 2 \(y\): the cell is empty"),
        ("x,y\n1,2\n\n3,nan\n", r"line 4, column 2 \(y\): nan stands for no number"),
        ("1,3\n-inf,4\n", "line 2, column 1: -inf is not a finite"),
        ("x,y\n1,2\n3,oak\n", r"line 3, column 2 \(y\): 'oak' is not a number"),
        ("1,oak\n1,2\n", "line 1, column 2: 'oak' is not a number"),
        ("x;y\n7,4.5;2\n", r"line 2, column 1 \(x\): '7,4.5' is not a number"),
        ("x;y\n1,234;2\n", "'1,234' is not a number. .* numbers as 1234.5"),
        ("x,y\n1,2020-01-01\n", "'2020-01-01' is not a number. Leave its column out"),
        ("x,y\n1,2\n1,2,3\n", "line 3: 3 cells, where the first line has 2"),
        ("x,y\n1,2,3\n1,2,3\n", "line 2: 3 cells, where the first line has 2"),
        ("x,y\n1,NA\n", r"line 2, column 2 \(y\): NA stands for no number. Fill it"),
        ("1,2,NA\n4,7,3\n", "line 1, column 3: NA stands for no number"),
        ("country,2019\n1,2\n", "line 1, column 1: 'country' .* set `header`"),
        ("1,2\0\n", "a.csv: is not a text file"),
        ("x,y\n1_000,2\n", r"line 2, column 1 \(x\): '1_000' is not a number"),
        ("x" * 200_000, "a.csv: cannot be read: field larger"),
        ("x,y\n1,'2\n", r"line 2, column 2 \(y\): \"'2\" is not a number"),
    ],
)
def test_bad_texts(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message):
        read_table(path)


def test_arrays(tmp_path):
    np.save(tmp_path / "line.npy", np.arange(4, dtype=np.int8))
    assert read_table(tmp_path / "line.npy").values.shape == (4, 1)
    np.savez(tmp_path / "two.npz", X=VALUES, y=np.arange(3))
    np.testing.assert_array_equal(
        read_table(tmp_path / "two.npz", array="X").values, VALUES
    )
    with pytest.raises(TableError, match="several arrays; name one of: X, y"):
        read_table(tmp_path / "two.npz")
    with pytest.raises(TableError, match="no array 'Z'"):
        read_table(tmp_path / "two.npz", array="Z")
    with pytest.raises(TableError, match=r"only \.npz"):
        read_table(tmp_path / "line.npy", array="X")


def test_bad_arrays(tmp_path):
    def save(values):
        np.save(tmp_path / "a.npy", values)
        return tmp_path / "a.npy"

    bad = VALUES.copy()
    bad[1, 2] = np.nan
    for values, message in (
        (bad, "row 2, column 3: nan is not a finite number; 1 such"),
        (np.zeros((2, 2, 2)), r"\(n, d\); got \(2, 2, 2\)"),
        (np.zeros((0, 3)), r"got \(0, 3\)"),
        (np.array(["a"]), "must hold real numbers"),
        (np.ones(2, complex), "must hold real numbers"),
        (np.array([{}], dtype=object), "cannot be read"),
    ):
        with pytest.raises(TableError, match=message):
            read_table(save(values))
    path = save(VALUES)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TableError, match="a.npy: cannot be read"):
        read_table(path)
    path.write_bytes(b"\x93NUMPY what is this")
    with pytest.raises(TableError, match="cannot be read"):
        read_table(path)
    np.savez(tmp_path / "a.npz", VALUES)
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(TableError, match="cannot be read"):
        read_table(tmp_path / "a.npz")


def test_names_and_endings(tmp_path):
    with pytest.raises(TableError, match=r"a\.xlsx: a table must end in one of \.csv"):
        read_table(tmp_path / "a.xlsx")
    with pytest.raises(TableError, match="must end"):
        write_table(tmp_path / "a", Table(VALUES))
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "absent.csv")
    assert list(tmp_path.iterdir()) == []


def test_tables_are_checked():
    with pytest.raises(ValueError, match=r"`values` must be \(n, d\)"):
        Table(np.zeros(3))
    with pytest.raises(ValueError, match="`values` must not have masked entries"):
        Table(np.ma.masked_less(VALUES, 0))
    np.testing.assert_array_equal(Table(np.ma.array(VALUES)).values, VALUES)
    with pytest.raises(ValueError, match="finite"):
        Table(np.array([[np.nan]]))
    with pytest.raises(ValueError, match="2 names; got 1"):
        Table(np.zeros((3, 2)), ("x",))

"""docs/chips.md and its twin, made from the chip files: `pytest tests/golden/test_chip_page.py --update-golden`."""

from __future__ import annotations

from collections.abc import Iterable

from tabulate import tabulate

from kit.chip import Chip

WORDS = {
    "en": {
        "title": "Chips",
        "intro": "Made from `images/<chip>/chip.toml`; a test keeps it equal. What is not known is left out: the first pull request of a "
        "vendor is the correction. [Bring up your chip](bring-up.md) says how to add one.",
        "words": "Status of a part: **proven** ran for this project; **documented** stands in the vendor's own repository or manual; "
        "**field** is what a third party's product or CI does; **seen** was found in user scripts only.",
        "status": "How sure we are",
        "found": "How a chip is found",
        "torch": "How torch sees it",
        "box": "What a container is given",
        "peaks": "Peaks on data sheets",
        "sources": "Sources",
        "status_head": ["chip", "name", "found", "torch", "container", "Kubernetes", "Apptainer", "types"],
        "found_head": ["chip", "PCI vendor", "classes", "nodes", "tool"],
        "torch_head": ["chip", "package", "device", "loads itself", "cards chosen by", "collective", "library"],
        "box_head": ["chip", "way", "nodes", "per card", "mounts", "groups", "capabilities", "CDI", "Kubernetes", "runtime"],
        "peaks_head": ["chip", "product", "kind", "value", "source"],
        "sources_head": ["chip", "part", "source"],
        "yes": {True: "yes", False: "no"},
        "note": "No shipped chip asks for a privileged container. Numbers in braces: `{n}` is the number in the node's own name, "
        "`{card}` and `{render}` are the kernel's display numbers in the order of PCI addresses.",
    },
    "zh": {
        "title": "芯片",
        "intro": "本页由 `images/<chip>/chip.toml` 生成，测试保证两者一致。未知的内容一律留空，欢迎厂商直接提交更正。新增芯片的方法见[接入新芯片](bring-up_zh.md)。",
        "words": "各部分的可信程度：**proven** 表示本项目实际运行过；**documented** 表示出自厂商代码库或手册；"
        "**field** 表示第三方产品或其持续集成采用；**seen** 表示仅见于用户脚本。",
        "status": "可信程度",
        "found": "芯片识别",
        "torch": "PyTorch 中的呈现",
        "box": "容器所需资源",
        "peaks": "标称峰值",
        "sources": "来源",
        "status_head": ["芯片", "名称", "识别", "PyTorch", "容器", "Kubernetes", "Apptainer", "数据类型"],
        "found_head": ["芯片", "PCI 厂商号", "设备类", "设备节点", "工具"],
        "torch_head": ["芯片", "软件包", "设备名", "自动加载", "选卡变量", "集合通信", "通信库"],
        "box_head": ["芯片", "方式", "公共节点", "每卡节点", "挂载", "用户组", "权能", "CDI", "Kubernetes", "运行时"],
        "peaks_head": ["芯片", "产品", "类别", "数值", "来源"],
        "sources_head": ["芯片", "部分", "来源"],
        "yes": {True: "是", False: "否"},
        "note": "随附的芯片均不要求特权容器。花括号内为编号：`{n}` 取自节点名称，`{card}` 与 `{render}` 为内核按 PCI 地址顺序分配的显示设备编号。",
    },
}


def render(chips: list[Chip], language: str) -> str:
    """The page in one language."""
    words = WORDS[language]
    parts = [f"# {words['title']}", words["intro"], words["words"]]
    parts += [f"## {words['status']}", _table(words["status_head"], (_status(chip, language) for chip in chips))]
    parts += [f"## {words['found']}", _table(words["found_head"], (_found(chip) for chip in chips if chip.detection))]
    parts += [f"## {words['torch']}", _table(words["torch_head"], (_torch(chip, words["yes"]) for chip in chips))]
    parts += [f"## {words['box']}", words["note"], _table(words["box_head"], (_box(chip) for chip in chips))]
    parts += [f"## {words['peaks']}", _table(words["peaks_head"], (row for chip in chips for row in _peaks(chip)))]
    parts += [f"## {words['sources']}", _table(words["sources_head"], (row for chip in chips for row in _sources(chip)))]
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [[cell or "-" for cell in row] for row in rows]
    return tabulate(lines, headers=head, tablefmt="pipe", disable_numparse=True, colalign=["left"] * len(head))


def _codes(values: Iterable[str]) -> str:
    return " ".join(f"`{value}`" for value in values)


def _status(chip: Chip, language: str) -> list[str]:
    return [
        chip.id,
        chip.names[language],
        *(chip.parts.get(part, "") for part in ("detection", "torch", "container", "kubernetes", "apptainer", "supports")),
    ]


def _found(chip: Chip) -> list[str]:
    how = chip.detection
    pci = how.get("pci", {"vendor": "", "classes": []})
    return [chip.id, pci["vendor"], _codes(pci["classes"]), _codes(how.get("nodes", [])), how.get("tool", "")]


def _torch(chip: Chip, yes: dict[bool, str]) -> list[str]:
    seen = chip.torch
    loads = yes[seen["autoload"]] if "autoload" in seen else ""
    return [
        chip.id,
        seen.get("package", ""),
        seen["device"],
        loads,
        _codes(seen.get("visible", {})),
        seen.get("collective", ""),
        seen.get("library", ""),
    ]


def _box(chip: Chip) -> list[str]:
    has, plugin = chip.container, chip.section("kubernetes")
    lists = [_codes([*has.get("nodes", []), *has.get("nodes_if_present", [])])]
    lists += [_codes(has.get(name, [])) for name in ("nodes_per_card", "mounts", "groups", "capabilities")]
    return [chip.id, has.get("way", ""), *lists, has.get("cdi", ""), plugin.get("resource", ""), has.get("runtime", "")]


def _peaks(chip: Chip) -> list[list[str]]:
    return [
        [chip.id, peak["product"], peak["kind"], f"{peak['value']} {peak['unit']}", peak["source"]]
        for peak in chip.document.get("peaks", [])
    ]


def _sources(chip: Chip) -> list[list[str]]:
    return [[chip.id, part, chip.document[part]["source"]] for part in chip.parts]

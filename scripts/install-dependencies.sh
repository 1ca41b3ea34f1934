#!/bin/sh
# Installs what building and testing need and this machine lacks; silent when that is nothing.
# With --ci also the formatter, clang and its sanitizers; with --bench also PyTorch, for comparing speed with it.
set -eu

# What must be there | apt | dnf | pacman | zypper | brew. A name with "pc:" is a pkg-config
# module, one with "py:" a module of the system's python3.
needs='
cc              build-essential         gcc             gcc       gcc               llvm
c++             build-essential         gcc-c++         gcc       gcc-c++           llvm
meson           meson                   meson           meson     meson             meson
ninja           ninja-build             ninja-build     ninja     ninja             ninja
pkg-config      pkg-config              pkgconf         pkgconf   pkg-config        pkgconf
pc:libcjson     libcjson-dev            cjson-devel     cjson     cJSON-devel       cjson
pc:yaml-0.1     libyaml-dev             libyaml-devel   libyaml   libyaml-devel     libyaml
pc:libpcre2-8   libpcre2-dev            pcre2-devel     pcre2     pcre2-devel       pcre2
pc:libutf8proc  libutf8proc-dev         utf8proc-devel  libutf8proc  utf8proc-devel utf8proc
pc:openblas     libopenblas-openmp-dev  openblas-devel  openblas  openblas-devel    openblas
pc:zlib         zlib1g-dev              zlib-devel      zlib      zlib-devel        zlib
pc:cmocka       libcmocka-dev           libcmocka-devel cmocka    libcmocka-devel   cmocka
'
ci_needs='
clang           clang                   clang           clang     clang             llvm
clang-format    clang-format            clang-tools-extra clang   clang-tools       clang-format
clang-runtime   libclang-rt-14-dev      compiler-rt     compiler-rt clang           llvm
'
bench_needs='
py:numpy        python3-numpy           python3-numpy   python-numpy python3-numpy    numpy
py:torch        python3-torch           python3-torch   python-pytorch python3-torch  pytorch
'
case ${1:-} in
--ci) needs="$needs$ci_needs" ;;
--bench) needs="$needs$bench_needs" ;;
esac

is_there() {
    case $1 in
    pc:*) pkg-config --exists "${1#pc:}" 2>/dev/null ;;
    py:*) "${PYTHON:-/usr/bin/python3}" -c "import ${1#py:}" 2>/dev/null ;;
    clang-runtime) echo 'int main(void) { return 0; }' | clang -x c -fsanitize=address,fuzzer-no-link -o /dev/null - 2>/dev/null ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

# The names in one column of the table of everything that is missing, each once.
missing_in_column() {
    echo "$needs" | while read -r name packages; do
        [ -n "$name" ] || continue
        is_there "$name" || echo "$packages" | awk -v column="$1" '{ print $column }'
    done | sort -u | tr '\n' ' '
}

missing=$(missing_in_column 1)
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    {
        echo "Building needs packages that are not here. Install them with the line for your system and try again:"
        echo "  dnf install $(missing_in_column 2)"
        echo "  pacman -S $(missing_in_column 3)"
        echo "  zypper install $(missing_in_column 4)"
        echo "  brew install $(missing_in_column 5)"
    } >&2
    exit 1
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "Building needs packages that are not here. As root: apt-get install $missing" >&2
        exit 1
    fi
    as_root=sudo
fi

echo "Installing $missing"
export DEBIAN_FRONTEND=noninteractive
install() {
    # shellcheck disable=SC2086 # names separated by blanks
    $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
# The lists of packages may be missing or out of date, as in a fresh container.
install 2>/dev/null || { $as_root apt-get update -qq && install; }

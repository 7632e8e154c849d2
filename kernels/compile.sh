#!/bin/sh
# CMake runs nvcc through this. The compiler's messages are kept beside the object, in .log, so that a build in which nothing was
# compiled can still report spills and warnings. Of the intermediates, which are thrown away otherwise, the PTX is searched:
# the library has Hopper's code as machine code only, and not every toolkit comes with a disassembler. For those that do, the
# machine code of kernels with tensor-core instructions or local memory stays, in .kept; to disassemble all of it would take a
# sixth of the time of compiling it.
object=
previous=
for argument in "$@"; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
case $object in
  *.o) ;;
  *) exec "$@" ;; # a list of dependencies, in older versions of CMake
esac

kept=$object.kept
rm -rf "$kept"
mkdir -p "$kept"
"$@" --keep --keep-dir "$kept" >"$object.log" 2>&1
status=$?
for ptx in "$kept"/*90a*.ptx; do
  [ -f "$ptx" ] && echo "sonde info    : $(grep -c 'wgmma\.mma_async' "$ptx") wgmma in ${ptx##*/}" >>"$object.log"
done
if [ $status = 0 ] && {
  grep -qsE 'mma\.(sync|mma_async)' "$kept"/*.ptx || grep -qE '[1-9][0-9]* bytes (stack frame|spill)' "$object.log"
}; then
  find "$kept" -type f ! -name '*.cubin' -exec rm -f {} +
else
  rm -rf "$kept"
fi
cat "$object.log"
exit $status

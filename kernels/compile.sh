#!/bin/sh
# CMake runs nvcc through this. What the compiler says is kept beside the object, so that a build in which nothing was compiled
# can still tell of spills and warnings; and the intermediate PTX is looked at, which is thrown away otherwise: the library
# has Hopper's code as machine code only, and not every toolkit comes with a disassembler.
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
rm -rf "$kept"
cat "$object.log"
exit $status

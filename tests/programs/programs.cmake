# The programs as a user runs them. The scripts read LODROP_TEST_DATA and what else they name from the environment.
if(TARGET lod_trainer AND NOT CMAKE_CROSSCOMPILING)
    foreach(name tuning same_bits bad_input crash evaluation methods)
        add_test(NAME programs_${name} COMMAND ${PROJECT_SOURCE_DIR}/tests/programs/${name}.py)
        set_tests_properties(programs_${name} PROPERTIES ENVIRONMENT LODROP_BUILD=${PROJECT_BINARY_DIR})
    endforeach()
endif()
